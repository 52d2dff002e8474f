-- I6: a job's attempts never overlap in time, and their numbers rise by one.
-- Why: two recorded attempts at the same time are an outcome applied twice. A release gives its
--      number back and leaves no row; the running attempt is in the job's own row.
-- Do: look for a database clock that was set back (a failover, a new host); else report a bug.
WITH ended AS (
    SELECT job_id, number, started_at, finished_at,
           row_number() OVER job AS expected,
           lag(finished_at) OVER job AS ended_before
    FROM job_attempts
    WHERE job_id >= :'first_job'::uuid
    WINDOW job AS (PARTITION BY job_id ORDER BY number)
), highest AS (
    SELECT job_id, max(number) AS number, max(finished_at) AS finished_at
    FROM ended GROUP BY job_id
)
SELECT job_id,
       CASE WHEN number <> expected
            THEN 'has an attempt ' || number || ' where number ' || expected || ' was next'
            WHEN finished_at < started_at THEN 'attempt ' || number || ' ends before it starts'
            ELSE 'attempt ' || number || ' starts at ' || started_at
                 || ', before the one before it ended at ' || ended_before END AS problem
FROM ended
WHERE number <> expected OR finished_at < started_at OR started_at < ended_before
UNION ALL
SELECT jobs.id,
       CASE WHEN coalesce(highest.number, 0) <> jobs.attempt - (jobs.state = 'running')::int
            THEN 'is ' || jobs.state || ' at attempt ' || jobs.attempt
                 || ', its highest ended one is ' || coalesce(highest.number, 0)
            ELSE 'runs since ' || jobs.started_at || ', before its last attempt ended at '
                 || highest.finished_at END
FROM jobs LEFT JOIN highest ON highest.job_id = jobs.id
WHERE jobs.id >= :'first_job'::uuid
  AND (coalesce(highest.number, 0) <> jobs.attempt - (jobs.state = 'running')::int
       OR (jobs.state = 'running' AND jobs.started_at < highest.finished_at));
