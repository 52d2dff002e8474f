-- I1: every job that was accepted is stored.
-- Why: a 202 means that the row is committed; an accepted job is never lost.
-- Do: nothing brings the row back; keep the database's files and log, and look for a restore,
--     a failover to a standby that lagged, or synchronous_commit = off.
-- Needs: client view
SELECT accepted.job_id,
       'was accepted at ' || accepted.accepted_at || ' and is not in jobs' AS problem
FROM chaos.accepted AS accepted
WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = accepted.job_id);
