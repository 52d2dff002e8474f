from taskflow.jobs.finishing import finish
from taskflow.jobs.notes import ProgressNote, record_progress, save_checkpoint
from taskflow.jobs.outcomes import completed
from taskflow_testing.jobs import Jobs


async def test_progress_is_written_for_running_attempts_only(jobs: Jobs) -> None:
    running, ended = await jobs.start(), await jobs.start()
    await finish(jobs.connection, [(ended.attempt, completed("1"))])

    await record_progress(
        jobs.connection,
        [ProgressNote(job.attempt, 40.0, "getting on") for job in (running, ended)],
    )

    row = await jobs.row(running.attempt.job_id)
    assert (row["progress_percent"], row["progress_message"]) == (40.0, "getting on")
    assert (await jobs.row(ended.attempt.job_id))["progress_percent"] is None


async def test_a_checkpoint_reaches_the_next_attempt(jobs: Jobs) -> None:
    claimed = await jobs.start()
    assert await save_checkpoint(jobs.connection, claimed.attempt, '{"page": 3}')
    await jobs.connection.execute("UPDATE jobs SET state = 'queued'")
    (again,) = await jobs.claim(claimed.attempt.job_id)
    assert getattr(again, "checkpoint_json", None) == '{"page": 3}'
    assert not await save_checkpoint(jobs.connection, claimed.attempt, '{"page": 4}')
