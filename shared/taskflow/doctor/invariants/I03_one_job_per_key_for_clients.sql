-- I3: clients were told of one job for each idempotency key.
-- Why: two accepted ids under one key are work that is done twice.
-- Do: compare the two jobs' payloads and events, and report a bug.
-- Needs: client view
SELECT min(job_id::text)::uuid AS job_id,
       'is one of ' || count(DISTINCT job_id) || ' jobs that were accepted under the key '
       || quote_literal(idempotency_key) || ': ' || string_agg(DISTINCT job_id::text, ', ')
       AS problem
FROM chaos.accepted
WHERE idempotency_key IS NOT NULL
GROUP BY idempotency_key
HAVING count(DISTINCT job_id) > 1;
