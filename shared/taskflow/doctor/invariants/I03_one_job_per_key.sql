-- I3: an idempotency key has made one job, of its own tenant, and a job was made by one key.
-- Why: a client repeats what it got no answer to; the repetition must not do the work twice.
-- Do: compare the jobs' payloads, cancel or delete the one too many, and report a bug.
-- A key that names no job is legal: the job was deleted since.
WITH known AS (
    SELECT tenant_id, path, key, job_id, deduplicated
    FROM idempotency_keys
    WHERE created_at >= :'since'::timestamptz
)
SELECT known.job_id,
       'is of tenant ' || jobs.tenant_id || ', the key ' || quote_literal(known.key)
       || ' that names it is of tenant ' || known.tenant_id AS problem
FROM known JOIN jobs ON jobs.id = known.job_id
WHERE jobs.tenant_id <> known.tenant_id
UNION ALL
SELECT job_id, 'was made by several keys: ' || string_agg(quote_literal(key), ', ' ORDER BY key)
FROM known
WHERE NOT deduplicated
GROUP BY job_id
HAVING count(*) > 1;
