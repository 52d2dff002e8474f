-- I4: a result exists exactly for completed jobs.
-- Why: a client that reads `completed` reads the result next, and one that reads `failed` must
--      not find half an answer.
-- Do: read the job's events and its last attempt's log; `POST /retry` runs a failed job again.
SELECT id AS job_id,
       CASE WHEN state <> 'completed' THEN 'has a result though it is ' || state
            WHEN result IS NULL AND result_object IS NULL THEN 'is completed without a result'
            ELSE 'has two results, one in its row and one in ' || result_object END AS problem
FROM jobs
WHERE id >= :'first_job'::uuid
  AND num_nonnulls(result, result_object) <> CASE WHEN state = 'completed' THEN 1 ELSE 0 END;
