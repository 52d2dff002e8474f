-- I9: no due job waits longer than 60 s after its pointer was lost.
-- Why: RabbitMQ may lose every message; the scheduler sends the pointers of waiting jobs again.
-- Do: start a scheduler and RabbitMQ, and read the scheduler's log (lanes_refuse,
--     lane_not_seen, pointers_left_to_scheduler).
-- Passing: a pointer that has come back unsent is sent again within seconds.
WITH overtaken AS (
    SELECT lane.key, max(least(lane.value::timestamptz, now())) AS claimed_up_to
    FROM workers CROSS JOIN jsonb_each_text(workers.watermarks) AS lane
    GROUP BY lane.key
)
SELECT id AS job_id,
       'is ' || state || ' and due since ' || run_at || ', and no pointer was sent' AS problem
FROM jobs
WHERE pointer_at IS NULL
  AND state IN ('queued', 'retrying', 'scheduled')
  AND run_at < now() - interval '60 s'
  AND updated_at < now() - interval '60 s'
UNION ALL
SELECT jobs.id,
       'is ' || jobs.state || ', its pointer of ' || jobs.pointer_at
       || ' is lost: pointers of its lane up to ' || overtaken.claimed_up_to || ' were claimed'
FROM overtaken
JOIN jobs ON jobs.queue = split_part(overtaken.key, '.', 1)
         AND jobs.priority::text = split_part(overtaken.key, '.', 2)
WHERE jobs.state IN ('queued', 'retrying')
  AND jobs.run_at <= now()
  AND jobs.pointer_at < overtaken.claimed_up_to
                        - make_interval(secs => :'pointer_lost_after_seconds'::float8)
  AND jobs.pointer_at < now() - interval '60 s'
                        - make_interval(secs => :'pointer_lost_after_seconds'::float8);
