import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from taskflow.jobs.attempts import ClaimedJob, Gone, Later, claim
from taskflow.jobs.backoff import LADDER_TOP_SECONDS
from taskflow.jobs.commands import cancel
from taskflow.jobs.finishing import Recorded, Stale, finish
from taskflow.jobs.leases import renew
from taskflow.jobs.outcomes import JobError, Outcome, OutcomeKind, cancelled, completed, released
from taskflow.jobs.states import JobState
from taskflow.sealing.ring import Part, Place, SealingKeyRing
from taskflow_testing.jobs import TENANT, Connect, Jobs

ERROR = JobError("Boom", "it broke", retryable=True)


def retryable(delay: float = 5.0) -> Outcome:
    return Outcome(OutcomeKind.RETRYABLE, error=ERROR, delay_seconds=delay)


def final() -> Outcome:
    return Outcome(OutcomeKind.FAILED, error=replace(ERROR, retryable=False))


async def record(jobs: Jobs, claimed: ClaimedJob, outcome: Outcome) -> Recorded | Stale:
    (verdict,) = await finish(jobs.connection, [(claimed.attempt, outcome)])
    return verdict


async def test_a_claim_takes_a_job_once(jobs: Jobs) -> None:
    job_id = await jobs.submit()

    (first,) = await jobs.claim(job_id)
    (second,) = await jobs.claim(job_id)

    assert isinstance(first, ClaimedJob)
    assert first.attempt.number == 1
    assert first.attempts_left == 3
    assert second == Gone(job_id)
    assert await jobs.state(job_id) == "running"
    assert (await jobs.history(job_id))[-1] == ("claim", "queued", "running")


async def test_many_workers_claim_each_job_once(jobs: Jobs, connect: Connect) -> None:
    job_ids = [await jobs.submit() for _ in range(60)]
    connections = [await connect() for _ in range(6)]

    verdicts = await asyncio.gather(
        *(
            claim(
                connection,
                job_ids[n * 5 :] + job_ids[: n * 5],
                worker_id=uuid7(),
                claim_token=uuid7(),
                lease_seconds=15,
                job_types=["echo"],
            )
            for n, connection in enumerate(connections)
        )
    )

    claimed = [v.attempt.job_id for batch in verdicts for v in batch if isinstance(v, ClaimedJob)]
    assert sorted(claimed) == sorted(job_ids)


async def test_a_claim_whose_answer_was_lost_is_found_by_its_token(jobs: Jobs) -> None:
    job_id, token = await jobs.submit(), uuid7()
    (first,) = await jobs.claim(job_id, claim_token=token)
    (again,) = await jobs.claim(job_id, claim_token=token)
    assert again == first
    assert len(await jobs.history(job_id)) == 2


async def test_a_pointer_that_comes_early_is_sent_on(jobs: Jobs) -> None:
    claimed = await jobs.start()
    await record(jobs, claimed, retryable(20))

    (verdict,) = await jobs.claim(claimed.attempt.job_id)

    assert isinstance(verdict, Later)
    assert 18 < verdict.delay_seconds <= 20


async def test_a_job_of_a_type_that_the_worker_lacks_is_sent_on(jobs: Jobs) -> None:
    job_id = await jobs.submit(type="other")
    (verdict,) = await jobs.claim(job_id)
    assert isinstance(verdict, Later)
    assert await jobs.state(job_id) == "queued"


async def test_nothing_to_claim(jobs: Jobs) -> None:
    expired = await jobs.submit(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    scheduled = await jobs.submit(delay_seconds=60)
    unknown = uuid7()
    wanted = [expired, scheduled, unknown]
    assert await jobs.claim(*wanted) == [Gone(job_id) for job_id in wanted]


async def test_success_is_recorded_with_its_result(jobs: Jobs) -> None:
    claimed = await jobs.start()

    verdict = await record(jobs, claimed, completed('{"n": 1}'))

    assert isinstance(verdict, Recorded)
    assert (verdict.state, verdict.pointer_at) == (JobState.COMPLETED, None)
    row = await jobs.row(claimed.attempt.job_id)
    assert row["result"] == '{"n": 1}'
    assert row["finished_at"] is not None
    assert row["lease_expires_at"] is None
    attempt = await jobs.connection.fetchrow("SELECT * FROM job_attempts")
    assert attempt is not None
    assert (attempt["number"], attempt["outcome"]) == (1, "completed")


async def test_a_result_of_null_is_a_result(jobs: Jobs) -> None:
    claimed = await jobs.start()
    await record(jobs, claimed, completed("null"))
    assert (await jobs.row(claimed.attempt.job_id))["result"] == "null"


async def test_an_outcome_is_recorded_once(jobs: Jobs) -> None:
    claimed = await jobs.start()
    first = await record(jobs, claimed, completed("1"))
    again = await record(jobs, claimed, completed("1"))
    assert isinstance(first, Recorded)
    assert isinstance(again, Recorded)
    assert len(await jobs.history(claimed.attempt.job_id)) == 3
    assert await jobs.connection.fetchval("SELECT count(*) FROM job_attempts") == 1


async def test_a_stale_outcome_changes_nothing(jobs: Jobs) -> None:
    claimed = await jobs.start()
    others = replace(claimed.attempt, worker_id=uuid7())
    later = replace(claimed.attempt, number=2)
    before = await jobs.row(claimed.attempt.job_id)

    verdicts = await finish(jobs.connection, [(others, completed("1")), (later, completed("2"))])

    assert verdicts == [Stale(claimed.attempt.job_id)] * 2
    assert await jobs.row(claimed.attempt.job_id) == before


async def test_outcomes_find_their_jobs_by_id_however_few_seem_to_run(jobs: Jobs) -> None:
    """By the worker's index each would be looked for among all that its worker runs and has run."""
    job_ids = [await jobs.submit() for _ in range(100)]
    await jobs.connection.execute("ANALYZE jobs")
    claimed = [each for each in await jobs.claim(*job_ids) if isinstance(each, ClaimedJob)]
    assert len(claimed) == len(job_ids)
    scans = "SELECT pg_stat_get_xact_numscans('ix_jobs_worker'::regclass)"

    async with jobs.connection.transaction():
        before = await jobs.connection.fetchval(scans)
        await finish(jobs.connection, [(job.attempt, completed("null")) for job in claimed])
        assert await jobs.connection.fetchval(scans) == before


async def test_a_retry_waits_on_the_ladder(jobs: Jobs) -> None:
    claimed = await jobs.start()
    verdict = await record(jobs, claimed, retryable(5))
    assert isinstance(verdict, Recorded)
    assert (verdict.state, verdict.delay_seconds) == (JobState.RETRYING, 5)
    row = await jobs.row(claimed.attempt.job_id)
    assert row["pointer_at"] == verdict.pointer_at
    assert abs(row["run_at"] - row["pointer_at"]) < timedelta(seconds=1)


async def test_a_long_retry_waits_in_the_database(jobs: Jobs) -> None:
    claimed = await jobs.start()
    verdict = await record(jobs, claimed, retryable(LADDER_TOP_SECONDS + 1))
    assert isinstance(verdict, Recorded)
    assert verdict.pointer_at is None


async def test_the_budget_of_attempts_ends(jobs: Jobs) -> None:
    claimed = await jobs.start(max_attempts=2)
    await record(jobs, claimed, retryable(0))
    (second,) = await jobs.claim(claimed.attempt.job_id)
    assert isinstance(second, ClaimedJob)
    assert (second.attempt.number, second.attempts_left) == (2, 0)

    verdict = await record(jobs, second, retryable(0))

    assert isinstance(verdict, Recorded)
    assert verdict.state is JobState.FAILED
    numbers = await jobs.connection.fetch("SELECT number FROM job_attempts ORDER BY number")
    assert [row["number"] for row in numbers] == [1, 2]


async def test_a_permanent_failure_ends_the_job(jobs: Jobs) -> None:
    claimed = await jobs.start()
    verdict = await record(jobs, claimed, final())
    assert isinstance(verdict, Recorded)
    assert verdict.state is JobState.FAILED
    assert '"Boom"' in (await jobs.row(claimed.attempt.job_id))["error"]


async def test_a_release_uses_up_no_attempt(jobs: Jobs) -> None:
    claimed = await jobs.start(max_attempts=1)

    verdict = await record(jobs, claimed, released())

    assert isinstance(verdict, Recorded)
    assert verdict.state is JobState.QUEUED
    assert verdict.pointer_at is not None
    assert (await jobs.row(claimed.attempt.job_id))["attempt"] == 0
    assert await jobs.connection.fetchval("SELECT count(*) FROM job_attempts") == 0
    jobs.worker_id = uuid7()
    (again,) = await jobs.claim(claimed.attempt.job_id)
    assert isinstance(again, ClaimedJob)
    assert again.attempt.number == 1
    assert await record(jobs, claimed, completed("1")) == Stale(claimed.attempt.job_id)


async def test_a_release_whose_answer_was_lost_is_recorded_once(jobs: Jobs) -> None:
    claimed = await jobs.start()
    first = await record(jobs, claimed, released())
    again = await record(jobs, claimed, released())
    assert isinstance(first, Recorded)
    assert isinstance(again, Recorded)
    # The pointer that the first answer would have sent is still to be sent.
    assert (again.state, again.pointer_at) == (JobState.QUEUED, first.pointer_at)
    assert [event for event, _, _ in await jobs.history(claimed.attempt.job_id)] == [
        "submit", "claim", "release",
    ]  # fmt: skip


async def test_cancel_is_asked_of_the_worker_and_then_recorded(jobs: Jobs) -> None:
    claimed = await jobs.start()
    job_id = claimed.attempt.job_id
    assert await cancel(jobs.connection, TENANT, job_id) is JobState.RUNNING

    (held,) = await renew(
        jobs.connection, [(job_id, 1)], worker_id=jobs.worker_id, lease_seconds=15
    )
    assert held.cancel_requested
    verdict = await record(jobs, claimed, cancelled())

    assert isinstance(verdict, Recorded)
    assert verdict.state is JobState.CANCELLED


@pytest.mark.parametrize("outcome", [retryable(), released()], ids=["retryable", "released"])
async def test_a_job_that_was_asked_to_stop_does_not_come_back(
    jobs: Jobs, outcome: Outcome
) -> None:
    claimed = await jobs.start()
    await cancel(jobs.connection, TENANT, claimed.attempt.job_id)
    verdict = await record(jobs, claimed, outcome)
    assert isinstance(verdict, Recorded)
    assert verdict.state is JobState.CANCELLED
    assert verdict.pointer_at is None
    assert '"cancelled"' in (await jobs.row(claimed.attempt.job_id))["error"]
    ended_as = await jobs.connection.fetchval("SELECT outcome FROM job_attempts")
    assert ended_as == ("cancelled" if outcome.kind is OutcomeKind.RELEASED else outcome.kind)


async def test_only_held_leases_are_renewed(jobs: Jobs) -> None:
    mine, ended = await jobs.start(), await jobs.start()
    await record(jobs, ended, completed("1"))
    await jobs.connection.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 min'")

    held = await renew(
        jobs.connection,
        [(mine.attempt.job_id, 1), (ended.attempt.job_id, 1), (mine.attempt.job_id, 2)],
        worker_id=jobs.worker_id,
        lease_seconds=15,
    )

    # An expired lease is still ours as long as nobody has taken the job.
    assert [(h.job_id, h.attempt_number) for h in held] == [(mine.attempt.job_id, 1)]
    assert (await jobs.row(mine.attempt.job_id))["lease_expires_at"] > datetime.now(UTC)
    assert not await renew(
        jobs.connection, [(mine.attempt.job_id, 1)], worker_id=uuid7(), lease_seconds=15
    )


async def test_a_row_that_another_holds_costs_no_other_lease(jobs: Jobs, connect: Connect) -> None:
    blocked, free = await jobs.start(), await jobs.start()
    await jobs.connection.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 min'")
    other = await connect()
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", blocked.attempt.job_id)
        pairs = [(job.attempt.job_id, 1) for job in (blocked, free)]
        held = await asyncio.wait_for(
            renew(jobs.connection, pairs, worker_id=jobs.worker_id, lease_seconds=15), 5
        )

    assert {(h.job_id, h.attempt_number) for h in held} == set(pairs)
    assert (await jobs.row(free.attempt.job_id))["lease_expires_at"] > datetime.now(UTC)


async def test_batches_that_overlap_do_not_deadlock(jobs: Jobs, connect: Connect) -> None:
    claimed = [await jobs.start() for _ in range(100)]
    pairs = [(c.attempt.job_id, 1) for c in claimed]
    connections = [await connect() for _ in range(4)]

    async def renewals(number: int) -> None:
        for round_ in range(15):
            turn = (number * 25 + round_ * 7) % 100
            await renew(
                connections[number],
                pairs[turn:] + pairs[:turn],
                worker_id=jobs.worker_id,
                lease_seconds=15,
            )

    outcomes = [(c.attempt, completed("1")) for c in reversed(claimed)]
    finishing = asyncio.create_task(finish(jobs.connection, outcomes))
    await asyncio.gather(*(renewals(number) for number in range(4)))
    verdicts = await finishing
    assert all(isinstance(verdict, Recorded) for verdict in verdicts)


@pytest.mark.parametrize(
    ("waited_seconds", "delay_seconds"), [(0, 5.0), (4, 5.0), (20, 20.0), (3600, 60.0)]
)
async def test_a_job_of_an_unknown_type_is_looked_at_less_and_less_often(
    jobs: Jobs, waited_seconds: int, delay_seconds: float
) -> None:
    job_id = await jobs.submit(type="nobody-knows")
    await jobs.connection.execute(
        "UPDATE jobs SET updated_at = now() - make_interval(secs => $2),"
        " run_at = now() - make_interval(secs => $2) WHERE id = $1",
        job_id,
        waited_seconds,
    )
    (later,) = await jobs.claim(job_id)
    assert isinstance(later, Later)
    assert later.delay_seconds == pytest.approx(delay_seconds, abs=1)


async def test_what_is_sealed_with_another_key_is_left_for_others(jobs: Jobs) -> None:
    def ring(key_id: str) -> SealingKeyRing:
        return SealingKeyRing({key_id: b"k" * 32})

    def sealed(key_id: str) -> dict[str, Any]:
        job_id = uuid7()
        payload = ring(key_id).seal_text(Place(TENANT, job_id, Part.PAYLOAD), "{}")
        return {"id": job_id, "sealed_payload": payload}

    mine, theirs = [await jobs.submit(**sealed(key)) for key in ("mine", "theirs")]
    resumed = await jobs.submit()
    checkpoint = ring("theirs").seal_json(Place(TENANT, resumed, Part.CHECKPOINT), "1")
    await jobs.connection.execute(
        "UPDATE jobs SET checkpoint = $2 WHERE id = $1", resumed, checkpoint
    )

    own, other, later = await jobs.claim(mine, theirs, resumed, key_ids=["mine"])
    assert isinstance(own, ClaimedJob)
    for verdict in (other, later):
        assert isinstance(verdict, Later)
        assert verdict.missing_key == "theirs"
        assert verdict.delay_seconds >= 5
    # No attempt was used up, and whoever has the key runs it.
    assert [await jobs.state(job_id) for job_id in (theirs, resumed)] == ["queued", "queued"]
    for verdict in await jobs.claim(theirs, resumed, key_ids=["mine", "theirs"]):
        assert isinstance(verdict, ClaimedJob)
        assert verdict.attempt.number == 1
