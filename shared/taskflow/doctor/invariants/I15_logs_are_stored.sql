-- I15: every stretch of log that the database names is in the object store.
-- Why: the object is written before the rows that name it, so what they name can be read.
-- Do: look for a lifecycle rule or a clean-up of the bucket, or a volume that was lost; what is
--     gone stays gone, and reading that log answers that a part is missing.
-- Needs: stored objects
-- Passing: a job that is being deleted loses its rows first and then its objects.
SELECT chunk.job_id,
       'attempt ' || chunk.attempt || ': '
       || CASE WHEN stored.size IS NULL THEN 'the log object ' || chunk.object_key || ' is missing'
               ELSE 'the log object ' || chunk.object_key || ' has ' || stored.size
                    || ' bytes, the log goes on to byte ' || chunk.byte_offset + chunk.byte_length
          END AS problem
FROM json_to_recordset(:'stored_objects'::json) AS stored (object_key text, size bigint)
JOIN log_chunks AS chunk ON chunk.object_key = stored.object_key
WHERE coalesce(stored.size, 0) < chunk.byte_offset + chunk.byte_length;
