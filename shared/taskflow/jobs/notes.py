"""What a running attempt writes beside its outcome: progress and checkpoints, guarded alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from taskflow.db.pool import Connection
from taskflow.jobs.outcomes import Attempt


@dataclass(frozen=True, slots=True)
class ProgressNote:
    """How far an attempt has come, 0 to 100."""

    attempt: Attempt
    percent: float
    message: str | None


_RECORD_PROGRESS = """
WITH notes AS (
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::float8[], $5::text[])
        AS notes (id, attempt, worker_id, percent, message)
), locked AS MATERIALIZED (
    SELECT jobs.id, notes.percent, notes.message
    FROM jobs JOIN notes
      ON jobs.id = notes.id AND jobs.attempt = notes.attempt AND jobs.worker_id = notes.worker_id
    WHERE jobs.state = 'running'
    ORDER BY jobs.id
    FOR UPDATE OF jobs
)
UPDATE jobs
SET progress_percent = locked.percent, progress_message = locked.message,
    updated_at = clock_timestamp()
FROM locked
WHERE jobs.id = locked.id
"""


async def record_progress(connection: Connection, notes: Sequence[ProgressNote]) -> None:
    """Write the progress of many attempts; one that has ended is passed over."""
    await connection.execute(
        _RECORD_PROGRESS,
        [note.attempt.job_id for note in notes],
        [note.attempt.number for note in notes],
        [note.attempt.worker_id for note in notes],
        [note.percent for note in notes],
        [note.message for note in notes],
    )


_SAVE_CHECKPOINT = """
UPDATE jobs SET checkpoint = $4::jsonb, updated_at = clock_timestamp()
WHERE id = $1 AND attempt = $2 AND worker_id = $3 AND state = 'running'
RETURNING id
"""


async def save_checkpoint(connection: Connection, attempt: Attempt, value_json: str) -> bool:
    """Store what the job remembers; False: the job has moved on without this attempt."""
    saved = await connection.fetchval(
        _SAVE_CHECKPOINT, attempt.job_id, attempt.number, attempt.worker_id, value_json
    )
    return saved is not None
