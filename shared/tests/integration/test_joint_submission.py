"""Jobs that are submitted together: all of them, or none."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import asyncpg
import pytest

from taskflow.errors import IdempotencyKeyReused, InvalidContent, NotAllAccepted, QuotaExceeded
from taskflow.jobs.joint_submission import have_anothers, submit_together
from taskflow.jobs.new_job import NewJob, Submission, SubmissionKind
from taskflow.jobs.quotas import NEAR_JOBS, DefaultQuotas
from taskflow.jobs.submission import submit
from taskflow_testing.jobs import TENANT, Connect, idempotency, new_job
from taskflow_testing.waiting import eventually, sessions_waiting


def keyed(count: int, fingerprint: bytes = b"one") -> list[NewJob]:
    return [new_job(idempotency=idempotency(f"k{n}", fingerprint)) for n in range(count)]


async def count(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval("SELECT count(*) FROM jobs")
    return found


async def refusals_of(
    connection: asyncpg.Connection, jobs: Sequence[NewJob], quotas: DefaultQuotas
) -> list[type | None]:
    with pytest.raises(NotAllAccepted) as refused:
        await submit_together(connection, jobs, with_pointers=True, quotas=quotas)
    found = [refused.value.refusals.get(job.id) for job in jobs]
    return [None if refusal is None else type(refusal) for refusal in found]


async def test_all_are_there_in_their_order_and_once(connection: asyncpg.Connection) -> None:
    jobs = [*keyed(20), *(new_job(delay_seconds=60) for _ in range(5))]
    first = await submit_together(connection, jobs, with_pointers=True)
    # As after a commit whose answer was lost.
    again = await submit_together(connection, jobs, with_pointers=True)

    assert [answer.job_id for answer in first] == [job.id for job in jobs]
    assert {answer.kind for answer in first} == {SubmissionKind.ACCEPTED}
    assert [answer.pointer_at is None for answer in first] == [False] * 20 + [True] * 5
    assert again == first
    assert await count(connection) == 25


async def test_one_that_cannot_be_stored_is_the_end_of_all(connection: asyncpg.Connection) -> None:
    jobs = [new_job(), new_job(payload={"text": "\x00"})]
    with pytest.raises(InvalidContent):
        await submit_together(connection, jobs, with_pointers=True)
    assert await count(connection) == 0


async def test_what_has_no_room_is_the_end_of_all(connection: asyncpg.Connection) -> None:
    await submit(connection, [new_job()], with_pointers=True)
    jobs = [new_job() for _ in range(3)]
    found = await refusals_of(connection, jobs, DefaultQuotas(waiting_jobs=3))
    assert found == [None, None, QuotaExceeded]
    assert await count(connection) == 1


async def test_who_has_the_keys_first_has_them(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    other = await connect()
    async with other.transaction():
        await submit(other, keyed(1, b"two"), with_pointers=True)
        task = asyncio.create_task(refusals_of(connection, keyed(3), DefaultQuotas()))
        # It has looked for the keys by then, and found none.
        await eventually(lambda: sessions_waiting(other))
    assert await task == [IdempotencyKeyReused, None, None]
    assert await count(connection) == 1


async def test_many_at_once_keep_to_the_quota(connect: Connect) -> None:
    connections = [await connect() for _ in range(8)]
    quotas = DefaultQuotas(waiting_jobs=100)
    answers = await asyncio.gather(
        *(
            submit_together(
                each, [new_job(tenant_id=TENANT) for _ in range(30)],
                with_pointers=True, quotas=quotas,
            )
            for each in connections
        ),
        return_exceptions=True,
    )  # fmt: skip
    assert sum(not isinstance(answer, NotAllAccepted) for answer in answers) == 3
    assert await count(connections[0]) == 90


async def test_those_that_take_no_turn_leave_room_for_a_batch(connect: Connect) -> None:
    """Two statements of others are not committed when a batch takes all the room that it sees."""
    near, *far = [await connect() for _ in range(3)]
    quotas = DefaultQuotas(waiting_jobs=NEAR_JOBS + 200)
    async with far[0].transaction(), far[1].transaction():
        for each in far:
            answers = await submit(
                each, [new_job() for _ in range(200)], with_pointers=True, quotas=quotas
            )
            assert {type(answer) for answer in answers} == {Submission}
        batch = [new_job() for _ in range(1_000)]
        await submit_together(near, batch, with_pointers=True, quotas=quotas)
    assert 1_400 == await count(near) <= NEAR_JOBS + 200


async def test_keys_are_anothers_by_their_fingerprints(connection: asyncpg.Connection) -> None:
    await submit(connection, keyed(5)[4:], with_pointers=True)
    for path, fingerprint, found in (
        ("/api/v1/jobs", b"one", False),
        ("/api/v1/jobs", b"two", True),
        ("/elsewhere", b"two", False),
    ):
        like_it = idempotency("k", fingerprint)
        keys = [replace(like_it, path=path, key=f"k{n}") for n in range(9)]
        assert await have_anothers(connection, TENANT, keys) is found
        also = [replace(key, also=[idempotency("k", b"one").fingerprint]) for key in keys]
        assert await have_anothers(connection, TENANT, also) is False
        assert await have_anothers(connection, TENANT, keys[:4]) is False
