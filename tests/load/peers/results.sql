-- Procrastinate keeps the jobs in tables of its own, but not what they return.
CREATE TABLE results (
    job_id bigint PRIMARY KEY,
    result jsonb NOT NULL
);
