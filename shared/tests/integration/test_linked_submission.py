"""Many jobs at once about which other jobs' rows decide."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from taskflow.db.pool import TRANSIENT_ERRORS
from taskflow.errors import (
    IdempotencyKeyReused,
    InvalidContent,
    ParentNotFound,
    QuotaExceeded,
    ServiceUnavailable,
)
from taskflow.jobs import dependents
from taskflow.jobs.commands import cancel
from taskflow.jobs.finishing import finish
from taskflow.jobs.halving import Halving
from taskflow.jobs.linked_submission import submit_linked
from taskflow.jobs.new_job import NewJob, Submission, SubmissionKind
from taskflow.jobs.outcomes import completed
from taskflow.jobs.quotas import DefaultQuotas
from taskflow.jobs.submission_answers import Answer
from taskflow_testing.jobs import TENANT, Connect, Jobs, idempotency, new_job, submit_one
from taskflow_testing.waiting import eventually, sessions_waiting

ACCEPTED, DEDUPLICATED = SubmissionKind.ACCEPTED, SubmissionKind.DEDUPLICATED
REPLAYED, REPLAYED_DEDUPLICATED = SubmissionKind.REPLAYED, SubmissionKind.REPLAYED_DEDUPLICATED


async def send(connection: asyncpg.Connection, jobs: Sequence[NewJob], **more: Any) -> list[Answer]:
    answers: dict[UUID, Answer] = {}
    await submit_linked(connection, jobs, answers, with_pointers=True, **more)
    return [answers[job.id] for job in jobs]


def said(answers: Sequence[Answer]) -> list[tuple[SubmissionKind, UUID] | type[Exception]]:
    return [
        (answer.kind, answer.job_id) if isinstance(answer, Submission) else type(answer)
        for answer in answers
    ]


async def count(connection: asyncpg.Connection, table: str) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))


async def test_unique_jobs_are_accepted_together(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    batch = [new_job(unique_key=f"u{n}", payload={"n": n}) for n in reversed(range(50))]

    answers = await send(connection, batch)

    assert said(answers) == [(ACCEPTED, job.id) for job in batch]
    for job in batch[:3]:
        row = await jobs.row(job.id)
        assert (row["unique_key"], row["state"]) == (job.unique_key, "queued")
        assert row["pointer_at"] is not None
        assert await jobs.history(job.id) == [("submit", None, "queued")]


async def test_of_those_with_one_unique_key_the_first_is_accepted(
    connection: asyncpg.Connection,
) -> None:
    batch = [
        new_job(unique_key="ab"[n % 2], idempotency=idempotency(f"k{n}") if n % 3 else None)
        for n in range(12)
    ]
    again = [new_job(unique_key=job.unique_key, idempotency=job.idempotency) for job in batch]

    first = await send(connection, batch)
    replayed = await send(connection, again)

    wanted = [(DEDUPLICATED, batch[n % 2].id) for n in range(12)]
    wanted[0], wanted[1] = (ACCEPTED, batch[0].id), (ACCEPTED, batch[1].id)
    assert said(first) == wanted
    # What a key was answered with before is repeated; without one there is only the live job.
    assert said(replayed) == [
        (
            DEDUPLICATED if not n % 3 else REPLAYED if n == 1 else REPLAYED_DEDUPLICATED,
            batch[n % 2].id,
        )
        for n in range(12)
    ]
    assert await count(connection, "jobs") == 2


async def test_each_is_judged_by_itself(connection: asyncpg.Connection, jobs: Jobs) -> None:
    alive, ended = await jobs.submit(unique_key="alive"), await jobs.submit(unique_key="ended")
    for each in (ended, lost := await jobs.submit()):
        await cancel(connection, TENANT, each)
    before = new_job(unique_key="before", idempotency=idempotency("before"))
    await send(connection, [before])
    parent = await jobs.submit()
    batch = [
        new_job(unique_key="alive"),
        new_job(unique_key="ended"),
        new_job(unique_key="before", idempotency=idempotency("before")),
        new_job(unique_key="other", idempotency=idempotency("before", b"another")),
        new_job(unique_key="bad", payload={"text": "\x00"}),
        new_job(unique_key="bad"),
        new_job(depends_on=[parent, uuid7()]),
        new_job(depends_on=[lost]),
        new_job(depends_on=[parent], unique_key="child"),
        new_job(depends_on=[parent], idempotency=idempotency("twice")),
        new_job(depends_on=[parent], idempotency=idempotency("twice")),
        before,
    ]

    answers = await send(connection, batch)

    assert said(answers) == [
        (DEDUPLICATED, alive),
        (ACCEPTED, batch[1].id),
        (REPLAYED, before.id),
        IdempotencyKeyReused,
        InvalidContent,
        (ACCEPTED, batch[5].id),
        ParentNotFound,
        InvalidContent,
        (ACCEPTED, batch[8].id),
        (ACCEPTED, batch[9].id),
        (REPLAYED, batch[9].id),
        (ACCEPTED, before.id),
    ]
    assert [await jobs.state(batch[n].id) for n in (1, 5, 8, 9)] == ["queued"] * 2 + ["blocked"] * 2


@pytest.mark.parametrize("bad", [{0}, {19}, {3, 4, 11}, set(range(20))], ids=str)
async def test_rows_that_cannot_be_stored_harm_no_other(
    connection: asyncpg.Connection, bad: set[int]
) -> None:
    batch = [
        new_job(unique_key=f"u{n}", payload={"text": "\x00" if n in bad else "fine"})
        for n in range(20)
    ]
    answers = await send(connection, batch)
    assert {n for n in range(20) if isinstance(answers[n], InvalidContent)} == bad
    assert await count(connection, "jobs") == 20 - len(bad)


async def test_children_wait_for_those_of_their_parents_that_have_not_completed(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    done, running = await jobs.start(), await jobs.start()
    await finish(connection, [(done.attempt, completed("1"))])
    both = [done.attempt.job_id, running.attempt.job_id]
    unwanted = await jobs.submit()
    batch = [
        new_job(depends_on=both[:1]),
        new_job(depends_on=both),
        new_job(depends_on=both[1:]),
        new_job(depends_on=[unwanted, uuid7()]),
    ]

    answers = await send(connection, batch)

    assert said(answers) == [*((ACCEPTED, job.id) for job in batch[:3]), ParentNotFound]
    states = [await jobs.state(job.id) for job in batch[:3]]
    assert states == ["queued", "blocked", "blocked"]
    assert [(await jobs.row(each))["has_dependents"] for each in (*both, unwanted)] == [
        True, True, False,
    ]  # fmt: skip
    await finish(connection, [(running.attempt, completed("1"))])
    assert [await jobs.state(job.id) for job in batch[:3]] == ["queued"] * 3


async def test_near_a_quota_they_are_judged_one_after_another(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    alive = await jobs.submit(unique_key="alive")
    batch = [
        new_job(unique_key="new"),
        new_job(unique_key="alive"),
        new_job(unique_key="new", idempotency=idempotency("k")),
        new_job(depends_on=[alive]),
        new_job(unique_key="too much"),
        new_job(unique_key="alive", idempotency=idempotency("a")),
    ]

    answers = await send(connection, batch, quotas=DefaultQuotas(waiting_jobs=3))

    assert said(answers) == [
        (ACCEPTED, batch[0].id),
        (DEDUPLICATED, alive),
        (DEDUPLICATED, batch[0].id),
        (ACCEPTED, batch[3].id),
        QuotaExceeded,
        (DEDUPLICATED, alive),
    ]


async def test_where_the_first_of_a_unique_key_is_refused_the_next_one_takes_its_place(
    connection: asyncpg.Connection,
) -> None:
    batch = [new_job(unique_key="u", depends_on=[uuid7()]), new_job(unique_key="u")]
    assert said(await send(connection, batch)) == [ParentNotFound, (ACCEPTED, batch[1].id)]


async def test_what_was_committed_and_not_answered_is_accepted_once(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    parent = await jobs.submit()
    batch = [new_job(unique_key="u", depends_on=[parent]), new_job(depends_on=[parent])]
    first, again = await send(connection, batch), await send(connection, batch)
    assert said(first) == said(again) == [(ACCEPTED, job.id) for job in batch]


@pytest.mark.parametrize("ends", [False, True])
async def test_a_twin_that_is_committed_meanwhile_is_found(
    connection: asyncpg.Connection, connect: Connect, ends: bool
) -> None:
    other = await connect()
    first = new_job(unique_key="u")
    batch = [new_job(unique_key="a"), new_job(unique_key="u", idempotency=idempotency("k"))]
    commit = other.transaction()
    await commit.start()
    # In the transaction that is open: what it has inserted is not to be seen by others.
    await submit_one(other, first)
    waiting = asyncio.create_task(send(connection, batch))
    await eventually(lambda: sessions_waiting(other))
    if ends:
        await commit.rollback()
    else:
        await commit.commit()

    expected = (ACCEPTED, batch[1].id) if ends else (DEDUPLICATED, first.id)
    assert said(await waiting) == [(ACCEPTED, batch[0].id), expected]


async def test_batches_that_share_unique_keys_in_any_order_do_not_block_each_other(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    holder, other = await connect(), await connect()
    held = holder.transaction()
    await held.start()
    await submit_one(holder, new_job(unique_key="a"))
    one = asyncio.create_task(send(connection, [new_job(unique_key=key) for key in "cad"]))
    await eventually(lambda: sessions_waiting(holder))
    two = asyncio.create_task(send(other, [new_job(unique_key=key) for key in "dc"]))

    async def goes_no_further() -> bool:
        return two.done() or await sessions_waiting(holder) == 2

    await eventually(goes_no_further)
    await held.rollback()

    # A deadlock would be raised.
    answers = [*await one, *await two]
    accepted = [a for a in answers if isinstance(a, Submission) and a.kind is ACCEPTED]
    assert len(accepted) == 3


async def test_who_repeats_batches_at_once_in_any_order_makes_each_job_once(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    connections = [await connect() for _ in range(4)]
    order = random.Random(7)

    def batch() -> list[NewJob]:
        jobs = [
            new_job(unique_key=f"u{n}", idempotency=idempotency(f"k{n}") if n % 2 else None)
            for n in range(40)
        ]
        order.shuffle(jobs)
        return jobs

    batches = await asyncio.gather(*(send(each, batch()) for each in connections))

    answers = [answer for each in batches for answer in each]
    assert {type(answer) for answer in answers} == {Submission}
    assert len({a.job_id for a in answers if isinstance(a, Submission)}) == 40
    assert await count(connection, "jobs") == 40


async def test_what_is_refused_for_its_parents_takes_no_room(
    connection: asyncpg.Connection,
) -> None:
    batch = [*(new_job(depends_on=[uuid7()]) for _ in range(3)), new_job(unique_key="good")]
    answers = await send(connection, batch, quotas=DefaultQuotas(waiting_jobs=3))
    assert said(answers) == [*[ParentNotFound] * 3, (ACCEPTED, batch[3].id)]


async def test_an_empty_unique_key_is_one(connection: asyncpg.Connection) -> None:
    batch = [new_job(unique_key=""), new_job(unique_key="")]
    assert said(await send(connection, batch)) == [
        (ACCEPTED, batch[0].id),
        (DEDUPLICATED, batch[0].id),
    ]


class Interrupted:
    """A connection whose statements with `text` in them wait for `go`, from the n-th on."""

    def __init__(self, connection: asyncpg.Connection, text: str, nth: int = 1) -> None:
        self._connection = connection
        self._text = text
        self._before = nth - 1
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()

    async def fetch(self, query: str, *values: Any) -> Any:
        if self._text in query:
            self._before -= 1
            if self._before < 0:
                self.arrived.set()
                await self.go.wait()
        return await self._connection.fetch(query, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_who_ends_a_job_with_its_descendants_goes_first(
    connection: asyncpg.Connection, connect: Connect, jobs: Jobs
) -> None:
    parent = await jobs.submit()
    child = await jobs.submit(depends_on=[parent])
    grandchild = await jobs.submit(depends_on=[child])
    last = await jobs.submit(depends_on=[parent])
    ending = Interrupted(await connect(), dependents._LOCK_CHILDREN, nth=2)
    # It has both children, and wants the grandchild: the other way round than by id.
    end = asyncio.create_task(cancel(ending, TENANT, parent))  # type: ignore[arg-type]
    await ending.arrived.wait()
    batch = [new_job(depends_on=[grandchild]), new_job(depends_on=[last])]
    waiting = asyncio.create_task(send(await connect(), batch))
    await eventually(lambda: sessions_waiting(connection))
    ending.go.set()

    # A deadlock would be raised.
    await end
    assert said(await waiting) == [InvalidContent] * 2


async def test_what_was_answered_before_the_session_was_lost_is_not_a_replay(
    connection: asyncpg.Connection, connect: Connect, jobs: Jobs
) -> None:
    alive = await jobs.submit(unique_key="alive")
    batch = [
        new_job(unique_key="alive", idempotency=idempotency("k")),
        new_job(unique_key="new"),
    ]
    lost = Interrupted(await connect(), "WITH named")
    answers: dict[UUID, Answer] = {}
    sending = asyncio.create_task(submit_linked(lost, batch, answers, with_pointers=True))  # type: ignore[arg-type]
    await lost.arrived.wait()
    await connection.execute("SELECT pg_terminate_backend($1)", lost.get_server_pid())
    lost.go.set()
    with pytest.raises(TRANSIENT_ERRORS):
        await sending

    await submit_linked(connection, batch, answers, with_pointers=True)

    assert said([answers[job.id] for job in batch]) == [
        (DEDUPLICATED, alive),
        (ACCEPTED, batch[1].id),
    ]


async def test_a_commit_in_doubt_that_arrives_late_is_no_twin_of_itself(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    batch = [new_job(unique_key="u")]
    again = Interrupted(await connect(), "AS twin")
    answers: dict[UUID, Answer] = {}
    sending = asyncio.create_task(submit_linked(again, batch, answers, with_pointers=True))  # type: ignore[arg-type]
    await again.arrived.wait()
    # It has looked for answers by then, and found none.
    await send(connection, batch)
    again.go.set()
    await sending
    assert said([answers[batch[0].id]]) == [(ACCEPTED, batch[0].id)]


@pytest.mark.parametrize("held", [{0}, {7}, {3, 8, 9}, set(range(10))], ids=str)
async def test_who_is_held_up_holds_up_nobody_else(
    connection: asyncpg.Connection, connect: Connect, jobs: Jobs, held: set[int]
) -> None:
    free, locked = await jobs.submit(), await jobs.submit()
    batch = [new_job(depends_on=[locked if n in held else free]) for n in range(10)]
    other = await connect()
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", locked)
        answers = await send(connection, batch)
    assert {n for n in range(10) if isinstance(answers[n], ServiceUnavailable)} == held
    assert await count(connection, "jobs") == 2 + 10 - len(held)
    # It may come again.
    again = await send(connection, batch)
    assert said(again) == [(ACCEPTED, job.id) for job in batch]


async def test_who_is_alone_waits_again(
    connection: asyncpg.Connection,
    connect: Connect,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = asyncio.Event()
    goes_on = Halving.goes_on_after_wait

    def note(halving: Halving, count: int) -> bool:
        waited.set()
        return goes_on(halving, count)

    monkeypatch.setattr(Halving, "goes_on_after_wait", note)
    parent = await jobs.submit()
    child = new_job(depends_on=[parent])
    other = await connect()
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", parent)
        waiting = asyncio.create_task(send(connection, [child]))
        await waited.wait()
    assert said(await waiting) == [(ACCEPTED, child.id)]
