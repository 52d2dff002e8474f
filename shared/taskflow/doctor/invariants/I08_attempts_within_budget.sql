-- I8: no attempt exceeds its job's budget, and a waiting job has an attempt left.
-- Why: a job that kills its worker is stopped in the end; one that waits without an attempt left
--      is never claimed. A retry by hand begins a fresh budget of max_attempts, and an attempt
--      that lost its worker may be given back; nothing else raises attempt_limit.
-- Do: a waiting one can be cancelled and retried by hand; report a bug.
SELECT id AS job_id,
       CASE WHEN attempt > attempt_limit
            THEN 'is at attempt ' || attempt || ', its budget ends with ' || attempt_limit
            WHEN attempt_limit - attempt > max_attempts
            THEN 'has ' || attempt_limit - attempt || ' attempts left, more than its '
                 || max_attempts
            WHEN attempt_limit < max_attempts
            THEN 'has a budget of ' || attempt_limit || ', less than its ' || max_attempts
            ELSE 'is ' || state || ' without an attempt left (' || attempt || ' of '
                 || attempt_limit || ')' END AS problem
FROM jobs
WHERE id >= :'first_job'::uuid
  AND (attempt > attempt_limit
       OR attempt_limit - attempt > max_attempts
       OR attempt_limit < max_attempts
       OR (attempt = attempt_limit AND state IN ('scheduled', 'blocked', 'queued', 'retrying')))
UNION ALL
SELECT ended.job_id,
       'has ended attempt ' || ended.number || ', its budget ends with ' || jobs.attempt_limit
FROM job_attempts AS ended JOIN jobs ON jobs.id = ended.job_id
WHERE ended.job_id >= :'first_job'::uuid AND ended.number > jobs.attempt_limit
UNION ALL
SELECT jobs.id,
       'has a budget that ends with ' || jobs.attempt_limit || ': ' || jobs.max_attempts
       || ' since its attempt ' || coalesce(fresh.attempt, 0) || ' and ' || lost.count
       || ' lost workers do not explain it'
FROM jobs
LEFT JOIN LATERAL (
    SELECT attempt, at FROM job_events
    WHERE job_events.job_id = jobs.id AND event = 'retry'
    ORDER BY job_events.id DESC LIMIT 1
) AS fresh ON true
CROSS JOIN LATERAL (
    SELECT count(*) FROM job_attempts
    WHERE job_attempts.job_id = jobs.id AND outcome = 'lost'
      AND number > coalesce(fresh.attempt, 0)
) AS lost
WHERE jobs.id >= :'first_job'::uuid
  AND jobs.attempt_limit > jobs.max_attempts
  AND jobs.attempt_limit - jobs.max_attempts - coalesce(fresh.attempt, 0) > lost.count;
