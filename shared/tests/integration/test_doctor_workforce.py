"""What the doctor says of schedulers, workers and what waits."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from taskflow.doctor.diagnosis import Diagnosis, Level
from taskflow.doctor.workforce import (
    check_schedulers,
    check_waiting,
    check_workers,
    read_waiting,
    read_workers,
)
from taskflow.jobs.states import Priority
from taskflow.jobs.worker_state import WorkerState
from taskflow.jobs.workers import WorkerRegistration, register_worker, set_worker_state
from taskflow_testing.jobs import Connect, Jobs


def by_subject(diagnoses: Sequence[Diagnosis]) -> dict[str, Diagnosis]:
    return {diagnosis.subject: diagnosis for diagnosis in diagnoses}


async def register(connection: asyncpg.Connection, *, queue: str, job_type: str) -> UUID:
    worker = WorkerRegistration(uuid7(), "host", 1, "1", [queue], [job_type], 10)
    await register_worker(connection, worker)
    return worker.id


async def at_once(seconds: float) -> None:
    """No pause."""


async def lead(connect: Connect) -> asyncpg.Connection:
    session = await connect()
    await session.execute("SET application_name = 'taskflow-scheduler-leadership'")
    await session.fetchval("SELECT pg_try_advisory_lock(4711)")
    return session


async def test_schedulers_are_counted_and_one_has_to_lead(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    assert (await check_schedulers(connection)).level is Level.FAIL
    await lead(connect)
    assert (await check_schedulers(connection)).level is Level.WARN
    second = await lead(connect)
    await second.execute("SELECT pg_advisory_lock_shared(4712)")
    assert (await check_schedulers(connection)).text == "2 running, one leads"


async def test_candidates_that_only_say_they_are_able_do_not_lead(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    session = await connect()
    await session.execute("SET application_name = 'taskflow-scheduler-leadership'")
    await session.execute("SELECT pg_advisory_lock_shared(4712)")
    assert (await check_schedulers(connection, pause=at_once)).level is Level.FAIL


async def test_a_change_of_the_leader_is_waited_for(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    candidate = await connect()
    await candidate.execute("SET application_name = 'taskflow-scheduler-leadership'")

    async def meanwhile(seconds: float) -> None:
        # The silence after which PostgreSQL ends a leader's session, and a candidate's next try.
        assert seconds > 5 + 1.2
        await candidate.fetchval("SELECT pg_try_advisory_lock(4711)")

    diagnosis = await check_schedulers(connection, pause=meanwhile)
    assert (diagnosis.level, diagnosis.text) == (Level.WARN, "one runs and leads")


async def test_a_worker_lives_while_it_beats(connection: asyncpg.Connection) -> None:
    async def seen() -> Diagnosis:
        return check_workers(*await read_workers(connection, lost_after_seconds=30))

    assert (await seen()).level is Level.FAIL
    worker_id = await register(connection, queue="default", job_type="echo")
    assert "1 alive with 10 slots" in (await seen()).text
    await set_worker_state(connection, worker_id, WorkerState.DRAINING)
    assert (await seen()).level is Level.FAIL
    await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '31 s'")
    assert "1 of the last day ended without a good-bye" in (await seen()).text


async def test_waiting_jobs_need_a_worker_of_their_queue_that_knows_their_type(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    async def seen() -> dict[str, Diagnosis]:
        alive, _ = await read_workers(connection, lost_after_seconds=30)
        return by_subject(check_waiting(await read_waiting(connection), alive))

    assert {diagnosis.level for diagnosis in (await seen()).values()} == {Level.OK}
    await jobs.submit(queue="billing", type="invoice")
    await jobs.submit(queue="billing", type="invoice", priority=Priority.HIGH)
    assert list((await seen())["queues"].details) == ["billing: 2 jobs"]
    await register(connection, queue="billing", job_type="other")
    nearly = await seen()
    assert nearly["queues"].level is Level.OK
    assert list(nearly["job types"].details) == ["invoice in queue billing: 2 jobs"]
    await register(connection, queue="billing", job_type="invoice")
    assert {diagnosis.level for diagnosis in (await seen()).values()} == {Level.OK}


async def test_a_long_backlog_is_told_with_its_age(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    await jobs.submit(run_at=datetime.now(UTC) + timedelta(hours=1))
    job_id = await jobs.submit()
    query = "UPDATE jobs SET run_at = now() - make_interval(secs => $2) WHERE id = $1"
    for age, level in ((200.0, Level.OK), (400.0, Level.WARN)):
        await connection.execute(query, job_id, age)
        backlog = by_subject(check_waiting(await read_waiting(connection), []))["backlog"]
        assert backlog.level is level
        assert f"1 due jobs wait, the oldest in queue default for {age:.0f} s" in backlog.text


async def test_of_a_lane_with_too_many_jobs_no_number_is_made_up(
    connection: asyncpg.Connection, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow.doctor.workforce.SEEN_PER_LANE", 2)
    await jobs.submit()
    for number in ("2", "at least 3", "at least 3"):
        await jobs.submit()
        lines = by_subject(check_waiting(await read_waiting(connection), []))
        assert lines["backlog"].text.startswith(f"{number} due jobs wait, the oldest in ")
        assert list(lines["queues"].details) == [f"default: {number} jobs"]
