-- I4: a large result that a completed job names exists in the object store.
-- Why: the row is written after the object, so what it names is there.
-- Do: look for a lifecycle rule or a clean-up of the bucket; the job has to be submitted again.
-- Needs: stored objects
-- Passing: a job that is being deleted loses its row first and then its objects.
SELECT jobs.id AS job_id, 'names its result ' || jobs.result_object || ', which is missing' AS problem
FROM json_to_recordset(:'stored_objects'::json) AS stored (object_key text, size bigint)
JOIN jobs ON jobs.result_object = stored.object_key
WHERE jobs.id >= :'first_job'::uuid AND stored.size IS NULL;
