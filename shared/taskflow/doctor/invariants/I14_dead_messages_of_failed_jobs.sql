-- I14: a pointer that was put into jobs.dead belongs to a job that has failed.
-- Why: whoever reads jobs.dead acts on jobs that are over; one that lives must not lie there.
-- Do: compare the job's events with the message's reason; report a bug. The message may be
--     purged: the job does not need it.
-- Needs: dead messages
-- A job that was deleted, or failed and was retried since, is legal; so is a message without a
-- reason, which RabbitMQ moved there itself (docs/operations.md).
SELECT DISTINCT dead.job_id,
       'lies in jobs.dead for the reason ' || quote_literal(dead.reason) || ', is '
       || jobs.state || ' and has never failed' AS problem
FROM json_to_recordset(:'dead_messages'::json) AS dead (job_id uuid, reason text)
JOIN jobs ON jobs.id = dead.job_id
WHERE dead.reason IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM job_events
      WHERE job_events.job_id = dead.job_id AND job_events.target = 'failed');
