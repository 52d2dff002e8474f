import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from taskflow.errors import InvalidContent, JobNotFound, JobStateConflict, VersionMismatch
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.commands import cancel, delete, retry
from taskflow.jobs.erasures import end_erasure, take_due_erasures
from taskflow.jobs.finishing import finish
from taskflow.jobs.log_index import StoredLogRange
from taskflow.jobs.outcomes import JobError, Outcome, OutcomeKind, completed
from taskflow.jobs.patching import patch
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.schemas import JobPatch
from taskflow.jobs.states import JobState, Priority
from taskflow.sealing.ring import SealingKeyRing
from taskflow_testing.jobs import TENANT, Connect, Jobs
from taskflow_testing.waiting import eventually, sessions_waiting

BARE = SealingKeyRing({})
SOON = datetime.now(UTC) + timedelta(hours=1)
FAILED = Outcome(OutcomeKind.FAILED, error=JobError("Boom", "it broke", retryable=False))


async def ended(jobs: Jobs, outcome: Outcome, **changes: Any) -> ClaimedJob:
    claimed = await jobs.start(**changes)
    await finish(jobs.connection, [(claimed.attempt, outcome)])
    return claimed


async def change(jobs: Jobs, job_id: Any, **changes: Any) -> Pointer | None:
    return await patch(jobs.connection, TENANT, job_id, JobPatch(**changes), BARE, if_version=None)


@pytest.mark.parametrize("waiting", [{}, {"delay_seconds": 60}], ids=["queued", "scheduled"])
async def test_a_waiting_job_is_cancelled_once(jobs: Jobs, waiting: dict[str, Any]) -> None:
    job_id = await jobs.submit(**waiting)
    source = await jobs.state(job_id)

    for _ in range(2):
        assert await cancel(jobs.connection, TENANT, job_id) is JobState.CANCELLED

    assert (await jobs.history(job_id))[1:] == [("cancel", source, "cancelled")]
    assert (await jobs.row(job_id))["finished_at"] is not None


async def test_a_running_job_is_asked_once(jobs: Jobs) -> None:
    claimed = await jobs.start()
    for _ in range(2):
        state = await cancel(jobs.connection, TENANT, claimed.attempt.job_id)
        assert state is JobState.RUNNING
    events = [event for event, _, _ in await jobs.history(claimed.attempt.job_id)]
    assert events == ["submit", "claim", "request_cancel"]


async def test_a_migration_under_way_disturbs_no_command(jobs: Jobs, connect: Connect) -> None:
    first, second = await jobs.submit(), await jobs.submit()
    await cancel(jobs.connection, TENANT, first)
    other = await connect()
    await other.execute("ALTER TABLE jobs ADD COLUMN of_the_next_version int")
    try:
        assert await cancel(jobs.connection, TENANT, second) is JobState.CANCELLED
    finally:
        await other.execute("ALTER TABLE jobs DROP COLUMN of_the_next_version")


async def test_a_finished_job_cannot_be_cancelled(jobs: Jobs) -> None:
    claimed = await ended(jobs, completed("1"))
    with pytest.raises(JobStateConflict, match="completed already"):
        await cancel(jobs.connection, TENANT, claimed.attempt.job_id)


async def test_another_tenants_job_does_not_exist(jobs: Jobs) -> None:
    job_id, stranger = await jobs.submit(), uuid7()
    for command in (cancel, retry, delete):
        with pytest.raises(JobNotFound):
            await command(jobs.connection, stranger, job_id)
    with pytest.raises(JobNotFound):
        await patch(jobs.connection, stranger, job_id, JobPatch(tags=[]), BARE, if_version=None)


async def test_a_retry_gives_a_fresh_budget_and_numbers_go_on(jobs: Jobs) -> None:
    claimed = await ended(jobs, FAILED, max_attempts=3)
    job_id = claimed.attempt.job_id

    pointed = await retry(jobs.connection, TENANT, job_id)

    row = await jobs.row(job_id)
    assert (row["state"], row["attempt_limit"], row["error"]) == ("queued", 4, None)
    assert pointed.pointer_at == row["pointer_at"]
    (again,) = await jobs.claim(job_id)
    assert isinstance(again, ClaimedJob)
    assert (again.attempt.number, again.attempts_left, again.failures_if_this_fails) == (2, 2, 1)


async def test_only_what_ended_badly_can_be_retried(jobs: Jobs) -> None:
    done = await ended(jobs, completed("1"))
    for job_id in (done.attempt.job_id, await jobs.submit()):
        with pytest.raises(JobStateConflict, match="only a failed"):
            await retry(jobs.connection, TENANT, job_id)


async def test_a_retry_stands_back_for_a_living_twin(jobs: Jobs) -> None:
    first = await jobs.submit(unique_key="u")
    await cancel(jobs.connection, TENANT, first)
    await jobs.submit(unique_key="u")
    with pytest.raises(JobStateConflict, match="unique_key"):
        await retry(jobs.connection, TENANT, first)


async def test_a_retry_stands_back_for_a_twin_that_is_just_being_submitted(
    jobs: Jobs, connect: Connect
) -> None:
    first = await jobs.submit(unique_key="u")
    await cancel(jobs.connection, TENANT, first)
    other, watcher = await connect(), await connect()
    transaction = other.transaction()
    await transaction.start()
    await Jobs(other).submit(unique_key="u")
    retrying = asyncio.create_task(retry(jobs.connection, TENANT, first))

    await eventually(lambda: sessions_waiting(watcher))
    await transaction.commit()

    with pytest.raises(JobStateConflict, match="unique_key"):
        await retrying
    assert await jobs.state(first) == "cancelled"


async def test_a_retry_does_not_overtake_its_parents(jobs: Jobs) -> None:
    parent = await jobs.submit()
    child = await jobs.submit(depends_on=[parent])
    await cancel(jobs.connection, TENANT, parent)
    with pytest.raises(JobStateConflict, match=str(parent)):
        await retry(jobs.connection, TENANT, child)


async def test_a_patch_changes_what_it_names(jobs: Jobs) -> None:
    job_id = await jobs.submit(tags=["old"], metadata={"a": 1})
    before = await jobs.row(job_id)

    moved = await change(jobs, job_id, tags=["new"], payload={"text": "other"})

    after = await jobs.row(job_id)
    assert moved is None
    assert (after["tags"], after["payload"]) == (["new"], '{"text": "other"}')
    assert after["metadata"] == before["metadata"]
    assert after["pointer_at"] == before["pointer_at"]
    assert after["updated_at"] > before["updated_at"]


async def test_another_priority_sends_a_pointer_to_the_other_lane(jobs: Jobs) -> None:
    job_id = await jobs.submit()
    moved = await change(jobs, job_id, priority="urgent")
    assert moved is not None
    assert moved.lane.priority is Priority.URGENT


async def test_run_at_moves_a_job_between_queued_and_scheduled(jobs: Jobs) -> None:
    job_id = await jobs.submit()

    assert await change(jobs, job_id, run_at=SOON) is None
    row = await jobs.row(job_id)
    assert (row["state"], row["pointer_at"]) == ("scheduled", None)

    moved = await change(jobs, job_id, run_at=None)
    assert moved is not None
    assert await jobs.state(job_id) == "queued"
    assert [event for event, _, _ in await jobs.history(job_id)] == ["submit"] + ["reschedule"] * 2


async def test_a_patch_of_an_old_version_is_refused(jobs: Jobs) -> None:
    job_id = await jobs.submit()
    version = (await jobs.row(job_id))["updated_at"]
    change_ = JobPatch(tags=["x"])
    await patch(jobs.connection, TENANT, job_id, change_, BARE, if_version=[version])
    with pytest.raises(VersionMismatch):
        await patch(jobs.connection, TENANT, job_id, change_, BARE, if_version=[version])


async def test_only_a_waiting_job_can_be_patched(jobs: Jobs) -> None:
    claimed = await jobs.start()
    with pytest.raises(JobStateConflict, match="only a waiting job"):
        await change(jobs, claimed.attempt.job_id, tags=[])


async def test_an_expiry_in_the_past_is_refused(jobs: Jobs) -> None:
    with pytest.raises(InvalidContent):
        await change(jobs, await jobs.submit(), expires_at=datetime(2001, 1, 1, tzinfo=UTC))


async def test_a_finished_job_leaves_no_row(jobs: Jobs) -> None:
    claimed = await ended(jobs, completed("1"))
    job_id = claimed.attempt.job_id
    await jobs.connection.execute(
        "INSERT INTO log_chunks (job_id, attempt, tenant_id, object_key, byte_offset,"
        " byte_length, line_count) VALUES ($1, 1, $2, 'logs/x', 10, 20, 1)",
        job_id,
        TENANT,
    )

    created_at = (await jobs.row(job_id))["created_at"]

    await delete(jobs.connection, TENANT, job_id)

    (erasure,) = await take_due_erasures(jobs.connection, limit=10)
    assert (erasure.job_id, erasure.tenant_id) == (job_id, TENANT)
    assert erasure.job_created_at == created_at
    assert erasure.log_ranges == [StoredLogRange("logs/x", 10, 20)]
    for table in ("jobs", "job_events", "job_attempts", "log_chunks"):
        assert await jobs.connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_what_is_not_deleted_leaves_nothing_to_erase(jobs: Jobs) -> None:
    job_id = (await ended(jobs, completed("1"))).attempt.job_id
    transaction = jobs.connection.transaction()
    await transaction.start()
    await delete(jobs.connection, TENANT, job_id)
    await transaction.rollback()
    assert await take_due_erasures(jobs.connection, limit=10) == []


async def test_an_erasure_that_is_not_ended_comes_again_later_each_time(jobs: Jobs) -> None:
    await delete(jobs.connection, TENANT, (await ended(jobs, completed("1"))).attempt.job_id)
    pauses = []
    for _ in range(6):
        (erasure,) = await take_due_erasures(jobs.connection, limit=10)
        assert await take_due_erasures(jobs.connection, limit=10) == []
        pauses.append(
            await jobs.connection.fetchval(
                "SELECT round(extract(epoch FROM due_at - clock_timestamp()))::int"
                " FROM pending_erasures"
            )
        )
        await jobs.connection.execute("UPDATE pending_erasures SET due_at = now()")
    assert pauses == [60, 120, 240, 480, 900, 900]
    assert erasure.tries == 6
    await end_erasure(jobs.connection, erasure)
    assert await take_due_erasures(jobs.connection, limit=10) == []


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_a_child_whose_failed_parent_was_deleted_is_not_retried(jobs: Jobs, end: str) -> None:
    parent = await jobs.start(max_attempts=1)
    child = await jobs.submit(depends_on=[parent.attempt.job_id])
    if end == "failed":
        await finish(jobs.connection, [(parent.attempt, FAILED)])
    else:
        await cancel(jobs.connection, TENANT, child)
        await finish(jobs.connection, [(parent.attempt, completed("1"))])
    assert await jobs.state(child) == "cancelled"
    await delete(jobs.connection, TENANT, parent.attempt.job_id)
    with pytest.raises(JobStateConflict, match=f"deleted.*{parent.attempt.job_id}"):
        await retry(jobs.connection, TENANT, child)


async def test_a_child_that_had_been_freed_is_retried_without_its_parents(jobs: Jobs) -> None:
    parent = await jobs.start()
    child = await jobs.submit(depends_on=[parent.attempt.job_id])
    await finish(jobs.connection, [(parent.attempt, completed("1"))])
    await delete(jobs.connection, TENANT, parent.attempt.job_id)
    await cancel(jobs.connection, TENANT, child)
    await retry(jobs.connection, TENANT, child)
    assert await jobs.state(child) == "queued"


async def test_a_living_job_cannot_be_deleted(jobs: Jobs) -> None:
    with pytest.raises(JobStateConflict, match="cancel it"):
        await delete(jobs.connection, TENANT, await jobs.submit())
