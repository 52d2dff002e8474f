-- I10: no running job has a lease that ran out more than 20 s ago.
-- Why: a job whose worker is lost runs again within 20 s.
-- Do: start a scheduler; it takes the jobs of lost workers once it has had contact with the
--     database for two heartbeats.
-- Passing: after an outage of the database workers get two heartbeats to renew their leases.
SELECT id AS job_id,
       CASE WHEN lease_expires_at IS NULL OR worker_id IS NULL
            THEN 'runs without a lease or a worker, so nothing would ever take it back'
            ELSE 'runs at worker ' || worker_id || ' under a lease that ran out at '
                 || lease_expires_at END AS problem
FROM jobs
WHERE state = 'running'
  AND (lease_expires_at < now() - interval '20 s'
       OR lease_expires_at IS NULL OR worker_id IS NULL);
