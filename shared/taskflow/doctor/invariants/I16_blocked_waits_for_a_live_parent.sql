-- I16: a blocked job waits for a job that has not ended and knows that it is waited for.
-- Why: the end of the last parent frees its children or cancels them, in one transaction; a job
--      that is left blocked after it would wait for ever.
-- Do: cancel the job and submit it anew; report a bug.
-- The index of blocked jobs finds all of them: who was forgotten has been for long.
WITH child AS (
    SELECT id, depends_on FROM jobs WHERE state = 'blocked'
)
SELECT child.id AS job_id,
       CASE WHEN bool_or(parent.state IN ('failed', 'cancelled', 'expired'))
            THEN 'is blocked though a job that it waits for did not complete'
            WHEN bool_and(coalesce(parent.state = 'completed', true))
            THEN 'is blocked though all that it waits for is completed'
            ELSE 'waits for a job that does not know it' END AS problem
FROM child
-- A child that waits for nothing has no dependency, and is looked at all the same.
LEFT JOIN LATERAL unnest(child.depends_on) AS dependency (id) ON true
LEFT JOIN jobs AS parent ON parent.id = dependency.id
GROUP BY child.id
HAVING bool_or(parent.state IN ('failed', 'cancelled', 'expired'))
    OR bool_and(coalesce(parent.state = 'completed', true))
    OR bool_or(parent.state NOT IN ('completed', 'failed', 'cancelled', 'expired')
               AND NOT parent.has_dependents);
