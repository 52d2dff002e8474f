"""Which waiting jobs are given a pointer."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from taskflow.db.roles import DatabaseRole
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.dispatch import (
    stamp_due,
    stamp_lost,
    unstamp,
    unstamp_unrouted,
    waiting_lanes,
)
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.jobs.workers import WorkerRegistration, beat_worker, register_worker
from taskflow_testing.jobs import Connect, Jobs

LANE = Lane("default", Priority.MEDIUM)
LOST_AFTER = 45.0


def ago(**duration: float) -> datetime:
    return datetime.now(UTC) - timedelta(**duration)


async def stamp_long_ago(jobs: Jobs, *job_ids: object, seconds: float = 100) -> None:
    await jobs.connection.execute(
        "UPDATE jobs SET pointer_at = now() - make_interval(secs => $2) WHERE id = ANY($1)",
        job_ids,
        seconds,
    )


async def make_undispatched(jobs: Jobs, **changes: object) -> UUID:
    job_id = await jobs.submit(**changes)
    await jobs.connection.execute("UPDATE jobs SET pointer_at = NULL WHERE id = $1", job_id)
    return job_id


async def claimed_up_to(jobs: Jobs, at: datetime, lane: Lane = LANE) -> None:
    worker = WorkerRegistration(uuid7(), "host", 1, "1", ["default"], ["echo"], 10)
    await register_worker(jobs.connection, worker)
    assert await beat_worker(jobs.connection, worker.id, {lane: at})


async def lost(jobs: Jobs, *, empty_at: datetime | None = None) -> list[object]:
    found = await stamp_lost(
        jobs.connection, LANE, empty_at=empty_at, lost_after_seconds=LOST_AFTER
    )
    return [job.job_id for job in found]


async def test_a_job_without_a_pointer_is_stamped_once(jobs: Jobs) -> None:
    job_id = await make_undispatched(jobs)

    (stamped,) = await stamp_due(jobs.connection)

    assert (stamped.job_id, stamped.lane, stamped.type) == (job_id, LANE, "echo")
    assert (await jobs.row(stamped.job_id))["pointer_at"] == stamped.pointer_at
    assert await stamp_due(jobs.connection) == []


async def test_a_scheduled_job_becomes_queued_when_it_is_due(jobs: Jobs) -> None:
    job_id = await jobs.submit(run_at=datetime.now(UTC) + timedelta(hours=1))
    assert await jobs.state(job_id) == "scheduled"
    assert await stamp_due(jobs.connection) == []

    await jobs.connection.execute("UPDATE jobs SET run_at = now() WHERE id = $1", job_id)
    (stamped,) = await stamp_due(jobs.connection)

    assert stamped.job_id == job_id
    assert await jobs.state(job_id) == "queued"
    assert (await jobs.history(job_id))[-1] == ("due", "scheduled", "queued")
    (verdict,) = await jobs.claim(job_id)
    assert isinstance(verdict, ClaimedJob)


async def test_a_queued_jobs_dispatch_is_no_event(jobs: Jobs) -> None:
    job_id = await make_undispatched(jobs)
    await stamp_due(jobs.connection)
    assert await jobs.history(job_id) == [("submit", None, "queued")]


async def test_slices_go_from_the_longest_due_and_leave_lanes_aside(jobs: Jobs) -> None:
    young = await make_undispatched(jobs)
    old = await make_undispatched(jobs, queue="media")
    await jobs.connection.execute(
        "UPDATE jobs SET run_at = now() - interval '1 hour' WHERE id = $1", old
    )

    assert [job.job_id for job in await stamp_due(jobs.connection, limit=1)] == [old]
    await jobs.connection.execute("UPDATE jobs SET pointer_at = NULL")
    aside = [Lane("media", Priority.MEDIUM)]
    assert [job.job_id for job in await stamp_due(jobs.connection, without=aside)] == [young]


async def test_lanes_left_aside_are_not_read_however_much_waits_in_them(jobs: Jobs) -> None:
    mute = await make_undispatched(jobs, queue="mute")
    columns = (
        "tenant_id, type, queue, priority, state, payload, run_at, max_attempts, attempt_limit"
    )
    await jobs.connection.execute(
        f"INSERT INTO jobs (id, {columns}) SELECT uuidv7(), {columns} FROM jobs,"
        " generate_series(1, 5000) WHERE id = $1",
        mute,
    )
    others = {await make_undispatched(jobs, queue=f"other{n}") for n in range(3)}

    async with jobs.connection.transaction():
        # Its row-level security must leave it the index.
        await jobs.connection.execute(f"SET LOCAL ROLE {DatabaseRole.SCHEDULER}")
        before = await rows_read(jobs)
        stamped = await stamp_due(jobs.connection, without=[Lane("mute", Priority.MEDIUM)])
        read = await rows_read(jobs) - before

    assert {job.job_id for job in stamped} == others
    assert read < 100


async def test_a_slice_reads_no_more_of_a_lane_than_it_takes(jobs: Jobs) -> None:
    lost_one, unsent = await jobs.submit(), await make_undispatched(jobs, queue="unsent")
    await stamp_long_ago(jobs, lost_one, seconds=100)
    columns = (
        "tenant_id, type, queue, priority, state, payload, run_at, max_attempts, attempt_limit,"
        " pointer_at"
    )
    await jobs.connection.execute(
        f"INSERT INTO jobs (id, {columns}) SELECT gen_random_uuid(), {columns} FROM jobs,"
        " generate_series(1, 5000) WHERE id = ANY($1)",
        [lost_one, unsent],
    )
    await jobs.connection.execute("ANALYZE jobs")
    (at, *_) = (await waiting_lanes(jobs.connection)).values()

    async with jobs.connection.transaction():
        await jobs.connection.execute(f"SET LOCAL ROLE {DatabaseRole.SCHEDULER}")
        before = await rows_read(jobs)
        lost_ones = await stamp_lost(
            jobs.connection,
            Lane("default", Priority.MEDIUM),
            empty_at=at,
            lost_after_seconds=45,
            limit=10,
        )
        aside = [Lane("mute", Priority.MEDIUM)]
        due = await stamp_due(jobs.connection, without=aside, limit=10)
        read = await rows_read(jobs) - before

    assert (len(lost_ones), len(due)) == (10, 10)
    assert read < 200


async def rows_read(jobs: Jobs) -> int:
    read: int = await jobs.connection.fetchval(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs'"
    )
    return read


async def test_two_who_leave_lanes_aside_stamp_a_job_once(jobs: Jobs, connect: Connect) -> None:
    posted = {await make_undispatched(jobs) for _ in range(50)}
    aside = [Lane("mute", Priority.MEDIUM)]
    connections = [await connect() for _ in range(4)]
    slices = await asyncio.gather(*(stamp_due(each, without=aside) for each in connections))
    stamped = [job.job_id for slice_ in slices for job in slice_]
    assert len(stamped) == len(set(stamped))
    stamped += [job.job_id for job in await stamp_due(jobs.connection, without=aside)]
    assert sorted(stamped) == sorted(posted)


async def test_a_row_that_is_held_is_skipped_and_found_later(jobs: Jobs, connect: Connect) -> None:
    held = await make_undispatched(jobs)
    free = await make_undispatched(jobs)
    other = await connect()
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", held)
        assert [job.job_id for job in await stamp_due(jobs.connection)] == [free]
    assert [job.job_id for job in await stamp_due(jobs.connection)] == [held]


async def test_lanes_are_those_in_which_a_job_waits(jobs: Jobs) -> None:
    assert await waiting_lanes(jobs.connection) == {}
    for queue, priority in (("b", "low"), ("a", "urgent"), ("b", "low"), ("a", "high")):
        await jobs.submit(queue=queue, priority=Priority(priority))
    await jobs.start(queue="running-only")
    await jobs.submit(queue="later", run_at=datetime.now(UTC) + timedelta(hours=1))

    lanes = await waiting_lanes(jobs.connection)

    assert [lane.key for lane in lanes] == ["a.high", "a.urgent", "b.low"]


async def test_a_pointer_is_lost_when_newer_ones_were_claimed_long_since(jobs: Jobs) -> None:
    overtaken, waits = await jobs.submit(), await jobs.submit()
    await stamp_long_ago(jobs, overtaken, seconds=100)
    await stamp_long_ago(jobs, waits, seconds=60)
    assert await lost(jobs) == []

    await claimed_up_to(jobs, ago(seconds=30))
    assert await lost(jobs) == [overtaken]
    assert await lost(jobs) == []

    await claimed_up_to(jobs, ago(seconds=1))
    await claimed_up_to(jobs, ago(seconds=50))
    assert await lost(jobs) == [waits]


async def test_a_watermark_ahead_of_the_database_counts_as_now(jobs: Jobs) -> None:
    old, young = await jobs.submit(), await jobs.submit()
    await stamp_long_ago(jobs, old, seconds=50)
    await stamp_long_ago(jobs, young, seconds=40)
    await claimed_up_to(jobs, datetime.now(UTC) + timedelta(hours=1))
    assert await lost(jobs) == [old]


async def test_a_watermark_speaks_for_its_lane_alone(jobs: Jobs) -> None:
    await stamp_long_ago(jobs, await jobs.submit())
    await claimed_up_to(jobs, ago(seconds=0), Lane("default", Priority.HIGH))
    await claimed_up_to(jobs, ago(seconds=0), Lane("media", Priority.MEDIUM))
    assert await lost(jobs) == []


async def test_a_pointer_is_lost_when_its_lane_is_empty(jobs: Jobs) -> None:
    old, young = await jobs.submit(), await jobs.submit()
    await stamp_long_ago(jobs, old, seconds=46)
    await stamp_long_ago(jobs, young, seconds=40)
    (at,) = (await waiting_lanes(jobs.connection)).values()
    assert await lost(jobs, empty_at=at) == [old]


@pytest.mark.parametrize("stamp", ["now() + interval '1 minute'", "now() - interval '5 minutes'"])
async def test_a_retry_that_is_not_due_is_never_lost(jobs: Jobs, stamp: str) -> None:
    job_id = await jobs.submit()
    await jobs.connection.execute(
        f"UPDATE jobs SET state = 'retrying', run_at = now() + interval '1 minute',"
        f" pointer_at = {stamp} WHERE id = $1",
        job_id,
    )
    await claimed_up_to(jobs, ago(seconds=0))
    assert await lost(jobs, empty_at=ago(seconds=-60)) == []


async def test_an_unrouted_pointer_gives_its_job_back_to_the_dispatch(jobs: Jobs) -> None:
    job_id = await jobs.submit()
    stamp = (await jobs.row(job_id))["pointer_at"]
    header = stamp.replace(microsecond=stamp.microsecond // 1000 * 1000)

    assert await unstamp_unrouted(jobs.connection, [(job_id, header), (uuid7(), None)]) == 1

    assert [job.job_id for job in await stamp_due(jobs.connection)] == [job_id]


async def test_an_unrouted_pointer_that_was_replaced_changes_nothing(jobs: Jobs) -> None:
    replaced, running = await jobs.submit(), await jobs.start()
    pairs = [(replaced, ago(seconds=10)), (running.attempt.job_id, None)]
    assert await unstamp_unrouted(jobs.connection, pairs) == 0


async def test_a_pointer_that_was_not_sent_is_stamped_anew(jobs: Jobs) -> None:
    job_id = await jobs.submit()
    stamp = (await jobs.row(job_id))["pointer_at"]
    await unstamp(jobs.connection, [(job_id, stamp)])
    (stamped,) = await stamp_due(jobs.connection)
    assert stamped.pointer_at > stamp
