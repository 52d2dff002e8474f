-- I17: what each tenant uses is counted as its jobs have it: waiting, running, bytes kept.
-- Why: quotas are judged by these counts; a wrong one refuses what has room, or nothing at all.
-- Do: start a scheduler, which compares and corrects them every ten minutes; if they drift again
--     while all processes are of one version and nobody writes by hand, report a bug.
WITH actual AS (
    SELECT tenant_id,
           count(*) FILTER (WHERE state IN ('blocked', 'queued', 'retrying', 'scheduled'))
               AS waiting_jobs,
           sum(2048 + payload_bytes + attribute_bytes + artifact_bytes
               + coalesce(result_bytes, 0)) AS kept_bytes,
           count(*) FILTER (WHERE state = 'running') AS running_jobs,
           min(id::text) AS first_job
    FROM jobs GROUP BY tenant_id
), counted AS (
    SELECT tenant_id, sum(waiting_jobs) AS waiting_jobs, sum(kept_bytes) AS kept_bytes,
           sum(running_jobs) AS running_jobs
    FROM tenant_usage GROUP BY tenant_id
), compared AS (
    SELECT tenant_id, first_job,
           concat_ws(', ', coalesce(actual.waiting_jobs, 0), coalesce(actual.kept_bytes, 0),
                     coalesce(actual.running_jobs, 0)) AS has,
           concat_ws(', ', coalesce(counted.waiting_jobs, 0), coalesce(counted.kept_bytes, 0),
                     coalesce(counted.running_jobs, 0)) AS count
    FROM actual FULL JOIN counted USING (tenant_id)
)
SELECT coalesce(first_job::uuid, tenant_id) AS job_id,
       'is of tenant ' || tenant_id || ', whose waiting jobs, bytes that are kept and running'
       || ' jobs are ' || has || ', and are counted as ' || count AS problem
FROM compared WHERE has <> count;
