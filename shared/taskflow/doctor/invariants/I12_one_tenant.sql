-- I12: events, attempts, logs and results have the tenant of their job, and none is without one.
-- Why: one tenant can't see another; deleting a job removes all that belongs to it.
-- Do: read who could see the foreign rows and tell them; report a bug. Rows without a job can
--     be deleted.
WITH belonging AS (
    SELECT 'an event' AS what, job_id, tenant_id FROM job_events
    WHERE job_id >= :'first_job'::uuid
    UNION ALL
    SELECT 'an attempt', job_id, tenant_id FROM job_attempts
    WHERE job_id >= :'first_job'::uuid
    UNION ALL
    SELECT 'a stretch of log', job_id, tenant_id FROM log_chunks
    WHERE job_id >= :'first_job'::uuid
)
SELECT DISTINCT belonging.job_id,
       CASE WHEN jobs.id IS NULL THEN 'is gone, and has left ' || belonging.what
            ELSE 'is of tenant ' || jobs.tenant_id || ' and has ' || belonging.what
                 || ' of tenant ' || belonging.tenant_id END AS problem
FROM belonging LEFT JOIN jobs ON jobs.id = belonging.job_id
WHERE jobs.id IS NULL OR jobs.tenant_id <> belonging.tenant_id
UNION ALL
SELECT DISTINCT job_id,
       'is of tenant ' || tenant_id || ' and has its log in ' || object_key
FROM log_chunks
WHERE job_id >= :'first_job'::uuid
  AND split_part(object_key, '/', 2) <> tenant_id::text
UNION ALL
SELECT id, 'is of tenant ' || tenant_id || ' and has its result in ' || result_object
FROM jobs
WHERE id >= :'first_job'::uuid
  AND split_part(result_object, '/', 2) <> tenant_id::text;
