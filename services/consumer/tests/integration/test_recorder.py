"""Outcomes and a PostgreSQL that refuses them for reasons of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack

import asyncpg
import pytest
from structlog.testing import capture_logs

from taskflow.db.pool import Database
from taskflow.db.roles import DatabaseRole
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.finishing import Recorded
from taskflow.jobs.outcomes import completed
from taskflow.relay import Relay, Sending
from taskflow.relay_backlog import Batch
from taskflow_consumer.recorder import Recorder
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import Jobs
from taskflow_testing.waiting import eventually


class SentNowhere(Relay):
    """What follows from an outcome is not looked at here."""

    def __init__(self) -> None:
        """Need no broker."""

    def send(self, sendings: Iterable[Sending]) -> Batch:
        list(sendings)
        return Batch(0)


@pytest.fixture
async def database(clean_database: str) -> AsyncIterator[Database]:
    async with open_pool(clean_database, DatabaseRole.CONSUMER) as database:
        yield database


@pytest.fixture
async def jobs(clean_database: str) -> AsyncIterator[Jobs]:
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(clean_database)
        stack.push_async_callback(connection.close)
        yield Jobs(connection)


def record(recorder: Recorder, jobs: Iterable[ClaimedJob]) -> list["asyncio.Task[object]"]:
    return [asyncio.create_task(recorder.record(job.attempt, completed("1"))) for job in jobs]


async def test_an_error_that_nobody_foresaw_is_said_and_the_outcomes_are_held_until_it_is_mended(
    database: Database, jobs: Jobs
) -> None:
    recorder = Recorder(database, SentNowhere())
    running = [await jobs.start() for _ in range(5)]
    await jobs.connection.execute("ALTER TABLE job_attempts RENAME TO hidden")
    try:
        with capture_logs() as said:
            recording = record(recorder, running)

            async def all_held() -> bool:
                held = {line["job_id"] for line in said if line["event"] == "outcome_held"}
                return len(held) == len(running)

            await eventually(all_held)
        assert not any(task.done() for task in recording)
        assert {line["log_level"] for line in said} == {"error"}
    finally:
        await jobs.connection.execute("ALTER TABLE hidden RENAME TO job_attempts")
    answers = await asyncio.gather(*recording)
    assert all(isinstance(answer, Recorded) for answer in answers)
    assert {await jobs.state(job.attempt.job_id) for job in running} == {"completed"}
    await recorder.close()


async def test_one_outcome_that_can_not_be_recorded_holds_up_no_other(
    database: Database, jobs: Jobs
) -> None:
    recorder = Recorder(database, SentNowhere())
    bad, *good = [await jobs.start() for _ in range(8)]
    await jobs.connection.execute(
        f"ALTER TABLE job_attempts ADD CONSTRAINT odd CHECK (job_id <> '{bad.attempt.job_id}')"
    )
    try:
        held, *others = record(recorder, [bad, *good])
        await asyncio.wait_for(asyncio.gather(*others), 10)
        assert not held.done()
    finally:
        await jobs.connection.execute("ALTER TABLE job_attempts DROP CONSTRAINT odd")
    assert isinstance(await asyncio.wait_for(held, 30), Recorded)
    await recorder.close()
