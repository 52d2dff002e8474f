-- I17: what each tenant uses is counted as its jobs have it: waiting, in each state, bytes kept.
-- Why: quotas are judged by these counts; a wrong one refuses what has room, or nothing at all.
--      Clients are told them as the numbers of their jobs.
-- Do: start a scheduler, which compares and corrects them every ten minutes; if they drift again
--     while all processes are of one version and nobody writes by hand, report a bug.
WITH by_state AS (
    SELECT tenant_id, state, count(*) AS jobs, min(id::text) AS first_job,
           sum(2048 + payload_bytes + attribute_bytes + artifact_bytes
               + coalesce(result_bytes, 0)) AS kept_bytes
    FROM jobs GROUP BY tenant_id, state
), actual AS (
    SELECT tenant_id, min(first_job) AS first_job, sum(kept_bytes) AS kept_bytes,
           sum(jobs) FILTER (WHERE state IN ('blocked', 'queued', 'retrying', 'scheduled'))
               AS waiting_jobs,
           sum(jobs) FILTER (WHERE state = 'scheduled') AS scheduled_jobs,
           sum(jobs) FILTER (WHERE state = 'blocked') AS blocked_jobs,
           sum(jobs) FILTER (WHERE state = 'retrying') AS retrying_jobs,
           sum(jobs) FILTER (WHERE state = 'running') AS running_jobs,
           sum(jobs) FILTER (WHERE state = 'completed') AS completed_jobs,
           sum(jobs) FILTER (WHERE state = 'failed') AS failed_jobs,
           sum(jobs) FILTER (WHERE state = 'cancelled') AS cancelled_jobs,
           sum(jobs) FILTER (WHERE state = 'expired') AS expired_jobs
    FROM by_state GROUP BY tenant_id
), counted AS (
    SELECT tenant_id, sum(waiting_jobs) AS waiting_jobs, sum(kept_bytes) AS kept_bytes,
           sum(scheduled_jobs) AS scheduled_jobs, sum(blocked_jobs) AS blocked_jobs,
           sum(retrying_jobs) AS retrying_jobs, sum(running_jobs) AS running_jobs,
           sum(completed_jobs) AS completed_jobs, sum(failed_jobs) AS failed_jobs,
           sum(cancelled_jobs) AS cancelled_jobs, sum(expired_jobs) AS expired_jobs
    FROM tenant_usage GROUP BY tenant_id
), compared AS (
    SELECT tenant_id, first_job, name, coalesce(has, 0) AS has, coalesce(count, 0) AS count
    FROM actual FULL JOIN counted USING (tenant_id)
    CROSS JOIN LATERAL (VALUES
        ('waiting_jobs', actual.waiting_jobs, counted.waiting_jobs),
        ('kept_bytes', actual.kept_bytes, counted.kept_bytes),
        ('scheduled_jobs', actual.scheduled_jobs, counted.scheduled_jobs),
        ('blocked_jobs', actual.blocked_jobs, counted.blocked_jobs),
        ('retrying_jobs', actual.retrying_jobs, counted.retrying_jobs),
        ('running_jobs', actual.running_jobs, counted.running_jobs),
        ('completed_jobs', actual.completed_jobs, counted.completed_jobs),
        ('failed_jobs', actual.failed_jobs, counted.failed_jobs),
        ('cancelled_jobs', actual.cancelled_jobs, counted.cancelled_jobs),
        ('expired_jobs', actual.expired_jobs, counted.expired_jobs)
    ) AS each (name, has, count)
)
SELECT coalesce(min(first_job)::uuid, tenant_id) AS job_id,
       'is of tenant ' || tenant_id || ', whose '
       || string_agg(name || ' are ' || has || ' and are counted as ' || count, ', ') AS problem
FROM compared WHERE has <> count GROUP BY tenant_id;
