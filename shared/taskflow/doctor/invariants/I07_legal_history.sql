-- I7: a job's events follow the legal edges, one from where the other led, and end at its row.
-- Why: docs/states.md is the only truth about states; nothing but `retry` follows an end.
-- Do: read the job's events from the first that does not fit; a write past the guarded
--     statements (by hand, by a script) is the usual cause. Report a bug if there was none.
WITH legal (event, sources, targets) AS (
    VALUES ('submit', '{}'::text[], '{queued,scheduled,blocked}'::text[]),
           ('due', '{scheduled}', '{queued}'),
           ('unblock', '{blocked}', '{queued,scheduled}'),
           ('reschedule', '{scheduled,queued,retrying}', '{queued,scheduled}'),
           ('claim', '{queued,retrying}', '{running}'),
           ('succeed', '{running}', '{completed}'),
           ('fail', '{running}', '{retrying,failed}'),
           ('lease_lost', '{running}', '{retrying,failed}'),
           ('release', '{running}', '{queued}'),
           ('request_cancel', '{running}', '{running}'),
           ('cancel', '{scheduled,blocked,queued,retrying,running}', '{cancelled}'),
           ('expire', '{scheduled,blocked,queued,retrying}', '{expired}'),
           ('retry', '{failed,cancelled,expired}', '{queued}')
), step AS (
    SELECT job_id, id, event::text, source::text, target::text, attempt,
           lag(target::text) OVER job AS led_to,
           lead(id) OVER job IS NULL AS is_last
    FROM job_events
    WHERE job_id >= :'first_job'::uuid
    WINDOW job AS (PARTITION BY job_id ORDER BY id)
)
SELECT step.job_id,
       CASE WHEN step.source IS DISTINCT FROM step.led_to
            THEN 'event ' || step.id || ' (' || step.event || ') starts from '
                 || coalesce(step.source, 'nothing') || ', the one before it led to '
                 || coalesce(step.led_to, 'nothing')
            ELSE 'event ' || step.id || ': ' || step.event || ' does not lead from '
                 || coalesce(step.source, 'nothing') || ' to ' || step.target END AS problem
FROM step LEFT JOIN legal USING (event)
WHERE step.source IS DISTINCT FROM step.led_to
   OR ((step.source = ANY(legal.sources) OR (step.source IS NULL AND legal.sources = '{}'))
       AND step.target = ANY(legal.targets)) IS NOT TRUE
UNION ALL
SELECT jobs.id,
       CASE WHEN step.job_id IS NULL THEN 'has no events'
            ELSE 'is ' || jobs.state || ' at attempt ' || jobs.attempt || ', its last event ('
                 || step.event || ') led to ' || step.target || ' at attempt '
                 || step.attempt - (step.event = 'release')::int END
FROM jobs LEFT JOIN step ON step.job_id = jobs.id AND step.is_last
WHERE jobs.id >= :'first_job'::uuid
  AND (step.job_id IS NULL
       OR step.target <> jobs.state::text
       -- A release takes its attempt's number back.
       OR step.attempt - (step.event = 'release')::int <> jobs.attempt);
