-- I5: the outcome on the job is that of its highest attempt.
-- Why: an outcome is applied at most once, and never that of a worker that the job has left.
-- Do: compare the job's attempts with its events; the attempts say what ran. Report a bug.
WITH highest AS (
    SELECT DISTINCT ON (job_id) job_id, number, outcome, error
    FROM job_attempts
    WHERE job_id >= :'first_job'::uuid
    ORDER BY job_id, number DESC
), judged AS (
    SELECT jobs.id, jobs.state, jobs.attempt, highest.number, highest.outcome,
           CASE jobs.state
               WHEN 'completed' THEN highest.outcome = 'completed'
               WHEN 'failed' THEN highest.outcome IN ('failed', 'retryable', 'lost')
               WHEN 'retrying' THEN highest.outcome IN ('retryable', 'lost')
               ELSE highest.outcome IS DISTINCT FROM 'completed' END AS outcome_fits,
           CASE WHEN jobs.state = 'completed' THEN jobs.error IS NULL
                WHEN jobs.state IN ('failed', 'retrying')
                THEN jobs.error IS NOT DISTINCT FROM highest.error
                ELSE true END AS error_fits
    FROM jobs LEFT JOIN highest ON highest.job_id = jobs.id
    WHERE jobs.id >= :'first_job'::uuid
)
SELECT id AS job_id,
       CASE WHEN number IS NULL THEN 'is ' || state || ' without an attempt'
            WHEN NOT outcome_fits
            THEN 'is ' || state || ', its highest attempt (' || number || ') says ' || outcome
            ELSE 'is ' || state || ' with another error than its highest attempt ('
                 || number || ')' END AS problem
FROM judged
WHERE outcome_fits IS NOT TRUE OR NOT error_fits;
