import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from taskflow.errors import IdempotencyKeyReused, InvalidContent, ParentNotFound
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.commands import cancel
from taskflow.jobs.finishing import finish
from taskflow.jobs.new_job import Submission, SubmissionKind
from taskflow.jobs.outcomes import completed
from taskflow.jobs.states import JobState
from taskflow.jobs.submission import submit
from taskflow_testing.jobs import TENANT, Connect, Jobs, idempotency, new_job, submit_one


def kinds(answers: Sequence[object]) -> list[SubmissionKind]:
    assert all(isinstance(answer, Submission) for answer in answers), answers
    return [answer.kind for answer in answers if isinstance(answer, Submission)]


async def test_a_submission_writes_job_and_event_together(jobs: Jobs) -> None:
    job_id = await jobs.submit(tags=["a", "b"], metadata={"who": "me"}, name="first")

    row = await jobs.row(job_id)
    assert (row["state"], row["attempt"], row["attempt_limit"]) == ("queued", 0, 4)
    assert row["tags"] == ["a", "b"]
    assert row["pointer_at"] is not None
    assert await jobs.history(job_id) == [("submit", None, "queued")]


async def test_a_batch_is_answered_in_its_order(connection: asyncpg.Connection) -> None:
    batch = [new_job(payload={"n": n}) for n in range(50)]

    answers = await submit(connection, batch, with_pointers=True)

    assert [a.job_id for a in answers if isinstance(a, Submission)] == [job.id for job in batch]


async def test_without_pointers_the_scheduler_is_left_to_publish(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    job = new_job()
    (answer,) = await submit(connection, [job], with_pointers=False)

    assert isinstance(answer, Submission)
    assert answer.pointer_at is None
    assert (await jobs.row(job.id))["pointer_at"] is None


@pytest.mark.parametrize(
    "when",
    [{"delay_seconds": 60}, {"run_at": datetime.now(UTC) + timedelta(days=3000)}],
    ids=["delay", "run_at"],
)
async def test_a_job_of_the_future_is_scheduled(jobs: Jobs, when: dict[str, object]) -> None:
    job_id = await jobs.submit(**when)
    row = await jobs.row(job_id)
    assert (row["state"], row["pointer_at"]) == ("scheduled", None)


async def test_a_time_that_has_passed_means_now(jobs: Jobs) -> None:
    job_id = await jobs.submit(run_at=datetime(2001, 1, 1, tzinfo=UTC))
    assert await jobs.state(job_id) == "queued"


async def test_the_same_batch_again_makes_nothing_twice(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    batch = [new_job(), new_job(idempotency=idempotency("k"))]
    first = await submit(connection, batch, with_pointers=True)

    again = await submit(connection, batch, with_pointers=True)

    assert again == first
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 2
    assert len(await jobs.history(batch[0].id)) == 1


async def test_the_answer_to_a_lost_commit_is_that_to_a_submission(jobs: Jobs) -> None:
    job = new_job()
    (first,) = await submit(jobs.connection, [job], with_pointers=True)
    (claimed,) = await jobs.claim(job.id)
    assert isinstance(claimed, ClaimedJob)
    await finish(jobs.connection, [(claimed.attempt, completed("1"))])

    (again,) = await submit(jobs.connection, [job], with_pointers=True)

    assert isinstance(first, Submission)
    assert isinstance(again, Submission)
    assert (again.kind, again.state) == (first.kind, JobState.QUEUED)


async def test_a_replay_answers_with_the_first_job(connection: asyncpg.Connection) -> None:
    first, second = (new_job(idempotency=idempotency("k")) for _ in range(2))
    await submit(connection, [first], with_pointers=True)

    (answer,) = await submit(connection, [second], with_pointers=True)

    assert isinstance(answer, Submission)
    assert (answer.kind, answer.job_id) == (SubmissionKind.REPLAYED, first.id)
    assert answer.state is JobState.QUEUED
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 1


async def test_another_body_under_a_key_is_refused(connection: asyncpg.Connection) -> None:
    await submit(connection, [new_job(idempotency=idempotency("k"))], with_pointers=True)
    (answer,) = await submit(
        connection, [new_job(idempotency=idempotency("k", b"two"))], with_pointers=True
    )
    assert isinstance(answer, IdempotencyKeyReused)


async def test_equal_keys_in_one_batch_make_one_job(connection: asyncpg.Connection) -> None:
    batch = [new_job(idempotency=idempotency("k")) for _ in range(5)]
    answers = await submit(connection, batch, with_pointers=True)
    assert sorted(kinds(answers)) == ["accepted"] + ["replayed"] * 4


async def test_equal_keys_on_many_connections_make_one_job(connect: Connect) -> None:
    connections = [await connect() for _ in range(8)]
    batches = [
        [new_job(idempotency=idempotency(f"k{n % 5}")) for n in range(20)] for _ in connections
    ]
    answers = await asyncio.gather(
        *(
            submit(connection, batch, with_pointers=True)
            for connection, batch in zip(connections, batches, strict=True)
        )
    )
    found = kinds([answer for batch in answers for answer in batch])
    assert found.count(SubmissionKind.ACCEPTED) == 5
    assert await connections[0].fetchval("SELECT count(*) FROM jobs") == 5


async def test_a_key_older_than_its_lifetime_is_free_again(
    connection: asyncpg.Connection,
) -> None:
    await submit(connection, [new_job(idempotency=idempotency("k"))], with_pointers=True)
    await connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 h'")
    answers = await submit(
        connection, [new_job(idempotency=idempotency("k", b"two"))], with_pointers=True
    )
    assert kinds(answers) == [SubmissionKind.ACCEPTED]


async def test_a_row_that_cannot_be_stored_harms_no_other(connection: asyncpg.Connection) -> None:
    batch = [new_job(payload={"text": "\x00"} if n == 7 else {"n": n}) for n in range(20)]

    answers = await submit(connection, batch, with_pointers=True)

    assert isinstance(answers[7], InvalidContent)
    assert len(kinds(answers[:7] + answers[8:])) == 19
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 19


async def test_when_the_first_of_a_key_is_refused_the_next_one_takes_its_place(
    connection: asyncpg.Connection,
) -> None:
    bad = new_job(payload={"text": "\x00"}, idempotency=idempotency("k"))
    good = new_job(idempotency=idempotency("k"))
    answers = await submit(connection, [bad, good], with_pointers=True)
    assert isinstance(answers[0], InvalidContent)
    assert kinds(answers[1:]) == [SubmissionKind.ACCEPTED]


async def test_a_living_twin_is_returned_instead(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    first = await jobs.submit(unique_key="u")
    answer = await submit_one(connection, new_job(unique_key="u"))

    assert isinstance(answer, Submission)
    assert (answer.kind, answer.job_id) == (SubmissionKind.DEDUPLICATED, first)

    await cancel(connection, TENANT, first)
    answer = await submit_one(connection, new_job(unique_key="u"))
    assert isinstance(answer, Submission)
    assert answer.kind is SubmissionKind.ACCEPTED


async def test_a_deduplicated_answer_is_replayed(connection: asyncpg.Connection) -> None:
    first = new_job(unique_key="u")
    await submit_one(connection, first)
    found = []
    for _ in range(2):
        job = new_job(unique_key="u", idempotency=idempotency("k"))
        answer = await submit_one(connection, job)
        assert isinstance(answer, Submission)
        found.append((answer.kind, answer.job_id))
    assert found == [
        (SubmissionKind.DEDUPLICATED, first.id),
        (SubmissionKind.REPLAYED_DEDUPLICATED, first.id),
    ]


async def test_twins_on_many_connections_make_one_job(connect: Connect) -> None:
    connections = [await connect() for _ in range(8)]
    answers = await asyncio.gather(
        *(submit_one(connection, new_job(unique_key="u")) for connection in connections)
    )
    assert len({a.job_id for a in answers if isinstance(a, Submission)}) == 1
    assert kinds(answers).count(SubmissionKind.ACCEPTED) == 1


async def test_a_job_waits_for_its_parents(jobs: Jobs) -> None:
    parents = [await jobs.start(), await jobs.start()]
    child = await jobs.submit(depends_on=[parent.attempt.job_id for parent in parents])
    assert await jobs.state(child) == "blocked"

    await finish(jobs.connection, [(parents[0].attempt, completed("1"))])
    assert await jobs.state(child) == "blocked"
    await finish(jobs.connection, [(parents[1].attempt, completed("1"))])
    assert await jobs.state(child) == "queued"
    assert (await jobs.history(child))[-1] == ("unblock", "blocked", "queued")


async def test_parents_that_end_at_once_still_free_their_child(
    jobs: Jobs, connect: Connect
) -> None:
    connections = [await connect() for _ in range(4)]
    for _ in range(10):
        parents = [await jobs.start() for _ in range(4)]
        child = await jobs.submit(depends_on=[parent.attempt.job_id for parent in parents])
        await asyncio.gather(
            *(
                finish(connection, [(parent.attempt, completed("1"))])
                for connection, parent in zip(connections, parents, strict=True)
            )
        )
        assert await jobs.state(child) == "queued"


async def test_children_of_completed_parents_do_not_wait(jobs: Jobs) -> None:
    parent = await jobs.start()
    await finish(jobs.connection, [(parent.attempt, completed("1"))])
    assert await jobs.state(await jobs.submit(depends_on=[parent.attempt.job_id])) == "queued"


async def test_a_cancelled_parent_cancels_its_descendants(jobs: Jobs) -> None:
    parent = await jobs.submit()
    child = await jobs.submit(depends_on=[parent])
    grandchild = await jobs.submit(depends_on=[child])

    await cancel(jobs.connection, TENANT, parent)

    assert [await jobs.state(job) for job in (parent, child, grandchild)] == ["cancelled"] * 3
    assert '"parent_failed"' in (await jobs.row(grandchild))["error"]


async def test_a_parent_must_exist_and_may_not_have_failed(jobs: Jobs) -> None:
    missing = uuid7()
    answer = await submit_one(jobs.connection, new_job(depends_on=[missing]))
    assert isinstance(answer, ParentNotFound)
    assert answer.problems == [("/depends_on/0", f"No job with the id {missing}.")]

    parent = await jobs.submit()
    await cancel(jobs.connection, TENANT, parent)
    answer = await submit_one(jobs.connection, new_job(depends_on=[parent]))
    assert isinstance(answer, InvalidContent)
