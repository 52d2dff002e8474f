-- I2: once the queues are empty, every job has ended.
-- Why: no job waits for ever without a reason. On a live system I9, I10 and I16 say the same.
-- Do: look at the job's events and at what its state waits for: a scheduler, a worker, a parent.
-- Needs: quiet
SELECT id AS job_id, 'is still ' || state || ', since ' || updated_at AS problem
FROM jobs
WHERE state NOT IN ('completed', 'failed', 'cancelled', 'expired')
  AND id >= :'first_job'::uuid;
