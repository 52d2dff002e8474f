-- I11: the attempt that completed a job had its effect outside.
-- Why: `completed` means that the handler has run to its end.
-- Do: compare the attempt's log with the effects; report a bug.
-- Needs: client view
SELECT jobs.id AS job_id,
       'was completed by attempt ' || jobs.attempt || ', which had no effect' AS problem
FROM jobs
WHERE jobs.state = 'completed'
  AND jobs.id >= :'first_job'::uuid
  AND NOT EXISTS (
      SELECT FROM chaos.effects
      WHERE effects.job_id = jobs.id AND effects.attempt = jobs.attempt);
