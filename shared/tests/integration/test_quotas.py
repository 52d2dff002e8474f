"""What tenants use is counted with every step, and nobody gets beyond a quota."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from taskflow.db.pool import Database, IntakeDatabase, TenantDatabase
from taskflow.db.roles import DatabaseRole
from taskflow.doctor import invariants
from taskflow.errors import QuotaExceeded
from taskflow.jobs import commands, patching
from taskflow.jobs.finishing import finish
from taskflow.jobs.new_job import NewJob, Submission, SubmissionKind
from taskflow.jobs.outcomes import JobError, Outcome, OutcomeKind, completed
from taskflow.jobs.quotas import JOB_BYTES, NEAR_JOBS, DefaultQuotas, Usage
from taskflow.jobs.room import FOLD_AT
from taskflow.jobs.schemas import JobPatch
from taskflow.jobs.states import Priority
from taskflow.jobs.submission import submit
from taskflow.jobs.submission_answers import Answer
from taskflow.jobs.usage import fold, mend, read_usage
from taskflow.sealing.ring import SealingKeyRing
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import TENANT, Jobs, idempotency, new_job
from taskflow_testing.jobs import submit_one as submit_job

OTHER = UUID("00000000-0000-7000-8000-00000000000b")
UNSEALED = SealingKeyRing.of("")
HELLO = len('{"text": "hello"}')
JOB = JOB_BYTES + HELLO

Submit = Callable[..., Coroutine[Any, Any, Answer]]


async def used(jobs: Jobs, tenant_id: UUID = TENANT) -> Usage:
    return (await read_usage(jobs.connection, [tenant_id]))[tenant_id]


async def counted_wrongly(jobs: Jobs) -> list[str]:
    invariant = invariants.load()["I17_use_is_counted"]
    (finding,) = await invariants.run(jobs.connection, invariants=[invariant])
    return [violation.problem for violation in finding.violations]


@pytest.fixture
async def intake(clean_database: str) -> AsyncIterator[IntakeDatabase]:
    patient = {"statement_timeout_seconds": 10.0, "acquire_timeout_seconds": 10.0}
    async with open_pool(clean_database, DatabaseRole.INTAKE, pool_size=8, **patient) as database:
        yield IntakeDatabase(database)


@pytest.fixture
async def tenants(clean_database: str) -> AsyncIterator[TenantDatabase]:
    patient = {"statement_timeout_seconds": 10.0, "acquire_timeout_seconds": 10.0}
    async with open_pool(clean_database, DatabaseRole.TENANT, pool_size=8, **patient) as database:
        yield TenantDatabase(database)


@pytest.fixture
def submit_one(intake: IntakeDatabase, tenants: TenantDatabase) -> Submit:
    """Submits as the API does, under its roles."""

    async def submit_it(job: NewJob, quotas: DefaultQuotas) -> Answer:
        if job.is_linked:
            async with tenants.connection(job.tenant_id) as connection:
                return await submit_job(connection, job, quotas=quotas)
        async with intake.connection([job.tenant_id]) as connection:
            return await submit_job(connection, job, quotas=quotas)

    return submit_it


async def test_every_step_is_counted(jobs: Jobs) -> None:
    job_id = await jobs.submit()
    assert await used(jobs) == Usage(1, JOB)
    (claimed,) = await jobs.claim(job_id)
    assert await used(jobs) == Usage(kept_bytes=JOB, running_jobs=1)
    await finish(jobs.connection, [(claimed.attempt, completed('"Zürich"'))])  # type: ignore[union-attr]
    assert await used(jobs) == Usage(kept_bytes=JOB + 9)
    await commands.delete(jobs.connection, TENANT, job_id)
    assert await used(jobs) == Usage()

    waiting = await jobs.submit()
    await patching.patch(
        jobs.connection, TENANT, waiting, JobPatch(payload={"text": ""}), UNSEALED, if_version=None
    )
    assert await used(jobs) == Usage(1, JOB - 5)
    await commands.cancel(jobs.connection, TENANT, waiting)
    assert await used(jobs) == Usage(kept_bytes=JOB - 5)
    await commands.retry(jobs.connection, TENANT, waiting)
    assert await used(jobs) == Usage(1, JOB - 5)
    assert await used(jobs, OTHER) == Usage()
    assert await counted_wrongly(jobs) == []


@pytest.mark.parametrize("alone", [False, True])
async def test_fifty_at_once_get_what_there_is(
    jobs: Jobs, submit_one: Submit, *, alone: bool
) -> None:
    quotas = DefaultQuotas(waiting_jobs=20)
    key = {"unique_key": "k"} if alone else {}
    submissions = [new_job(**({"unique_key": f"k{number}"} if key else {})) for number in range(50)]

    answers = await asyncio.gather(*(submit_one(job, quotas) for job in submissions))

    refused = [answer for answer in answers if isinstance(answer, QuotaExceeded)]
    assert len(refused) == 30
    assert {(each.quota, each.limit, each.use) for each in refused} == {("waiting_jobs", 20, 20)}
    assert (await used(jobs)).waiting_jobs == 20
    assert await jobs.connection.fetchval("SELECT count(*) FROM jobs") == 20
    assert await jobs.connection.fetchval("SELECT count(*) FROM job_events") == 20
    assert await counted_wrongly(jobs) == []


async def test_bytes_that_are_kept_are_limited(jobs: Jobs, submit_one: Submit) -> None:
    quotas = DefaultQuotas(kept_bytes=3 * JOB)
    answers = await asyncio.gather(*(submit_one(new_job(), quotas) for _ in range(10)))
    assert len([each for each in answers if isinstance(each, Submission)]) == 3
    # A smaller one may still fit, and here none does.
    refused = await submit_one(new_job(payload={}), quotas)
    assert isinstance(refused, QuotaExceeded)
    assert (refused.quota, refused.use) == ("kept_bytes", 3 * JOB)


async def test_a_sealed_payload_counts_for_what_it_says(jobs: Jobs, submit_one: Submit) -> None:
    ring = SealingKeyRing({"k": b"k" * 32})
    job = new_job()
    sealed = replace(job, sealed_payload=ring.sealed_payload(TENANT, job.id, job.payload))
    assert isinstance(await submit_one(sealed, DefaultQuotas(kept_bytes=JOB)), Submission)
    assert await used(jobs) == Usage(1, JOB)
    await patching.patch(
        jobs.connection, TENANT, job.id, JobPatch(payload={"text": ""}), ring, if_version=None
    )
    assert await used(jobs) == Usage(1, JOB - 5)
    await patching.patch(
        jobs.connection, TENANT, job.id, JobPatch(priority=Priority.HIGH), ring, if_version=None
    )
    assert await used(jobs) == Usage(1, JOB - 5)
    assert await counted_wrongly(jobs) == []


async def test_what_has_ended_is_kept_and_limited(jobs: Jobs, submit_one: Submit) -> None:
    quotas = DefaultQuotas(kept_bytes=2 * JOB + 11)
    claimed = await jobs.start()
    await finish(jobs.connection, [(claimed.attempt, completed('"0123456789"'))])

    refused = await submit_one(new_job(), quotas)

    assert isinstance(refused, QuotaExceeded)
    assert (refused.quota, refused.use) == ("kept_bytes", JOB + 12)
    await commands.delete(jobs.connection, TENANT, claimed.attempt.job_id)
    assert isinstance(await submit_one(new_job(), quotas), Submission)
    assert await counted_wrongly(jobs) == []


async def test_artifacts_of_every_attempt_count(jobs: Jobs) -> None:
    claimed = await jobs.start()
    attempt, job_id = claimed.attempt, claimed.attempt.job_id
    again = Outcome(OutcomeKind.RETRYABLE, error=JobError("e", "m", True), artifact_bytes=30)
    for _ in range(2):
        # The second time since the first answer was lost.
        await finish(jobs.connection, [(attempt, again)])
    assert await used(jobs) == Usage(1, JOB + 30)

    (second,) = await jobs.claim(job_id)
    done = replace(completed("1"), artifact_bytes=5_000_000_000)
    await finish(jobs.connection, [(second.attempt, done)])  # type: ignore[union-attr]
    assert await used(jobs) == Usage(kept_bytes=JOB + 30 + 1 + 5_000_000_000)
    assert await counted_wrongly(jobs) == []

    await commands.delete(jobs.connection, TENANT, job_id)
    assert await used(jobs) == Usage()


async def test_the_smallest_jobs_count_too(jobs: Jobs, submit_one: Submit) -> None:
    quotas = DefaultQuotas(kept_bytes=3 * JOB_BYTES)
    answers = [await submit_one(new_job(payload={}), quotas) for _ in range(4)]
    assert [isinstance(each, Submission) for each in answers] == [True, True, False, False]


async def test_what_is_said_of_a_job_counts(jobs: Jobs, submit_one: Submit) -> None:
    quotas = DefaultQuotas(kept_bytes=JOB + 60)
    job = new_job(name="Zürich", description="a", tags=["b", "cd"], metadata={"e": "f"})
    said = len("Zürich".encode()) + 1 + 3 + len('{"e": "f"}')
    assert isinstance(await submit_one(job, quotas), Submission)
    assert await used(jobs) == Usage(1, JOB + said)

    async def patch(**changes: Any) -> None:
        change, at = JobPatch(**changes), jobs.connection
        await patching.patch(at, TENANT, job.id, change, UNSEALED, if_version=None, quotas=quotas)

    for change in ({"tags": ["x" * 50]}, {"metadata": {"e": "x" * 60}}):
        with pytest.raises(QuotaExceeded):
            await patch(**change)
    await patch(tags=["bcde"])
    assert await used(jobs) == Usage(1, JOB + said + 1)
    await patch(metadata={}, payload={})
    assert await used(jobs) == Usage(1, JOB_BYTES + 2 + said + 1 - len('{"e": "f"}'))
    assert await counted_wrongly(jobs) == []


@pytest.mark.parametrize("is_old", [False, True])
async def test_who_takes_away_what_counted_for_less_gains_nothing(
    jobs: Jobs, *, is_old: bool
) -> None:
    # PostgreSQL writes each of these numbers as 309 digits.
    job_id = await jobs.submit(tags=["x" * 64], metadata={"e": [1e308] * 100})
    if is_old:
        # As a process of a version before quotas stores it.
        forget = "UPDATE jobs SET payload_bytes = 0, attribute_bytes = 0 WHERE id = $1"
        await jobs.connection.execute(forget, job_id)
        await mend(jobs.connection)

    changes = JobPatch(priority=Priority.HIGH), JobPatch(tags=[]), JobPatch(metadata={})
    for change in changes:
        await patching.patch(jobs.connection, TENANT, job_id, change, UNSEALED, if_version=None)
        assert await counted_wrongly(jobs) == []

    assert await used(jobs) == Usage(1, JOB_BYTES if is_old else JOB)


@pytest.mark.parametrize("changes", [{}, {"unique_key": "k"}])
async def test_what_a_registration_made_may_keep_less(
    jobs: Jobs, submit_one: Submit, changes: dict[str, Any]
) -> None:
    stranger = uuid4()
    add = "INSERT INTO tenants (id, name, is_registered) VALUES ($1, $1::uuid::text, true)"
    await jobs.connection.execute(add, stranger)
    quotas = DefaultQuotas(kept_bytes=10**12, registered_kept_bytes=JOB)

    async def submit_two(tenant_id: UUID) -> list[bool]:
        twins = [new_job(tenant_id=tenant_id), new_job(tenant_id=tenant_id, **changes)]
        answers = [await submit_one(job, quotas) for job in twins]
        return [isinstance(answer, Submission) for answer in answers]

    try:
        assert await submit_two(TENANT) == [True, True]
        assert await submit_two(stranger) == [True, False]
        # The operator makes it one of its own.
        await jobs.connection.execute(
            "UPDATE tenants SET is_registered = false WHERE id = $1", stranger
        )
        assert isinstance(await submit_one(new_job(tenant_id=stranger), quotas), Submission)
    finally:
        await jobs.connection.execute("DELETE FROM tenants WHERE id = $1", stranger)


@pytest.mark.parametrize("changes", [{}, {"unique_key": "k"}])
async def test_a_replay_is_never_refused(
    jobs: Jobs, submit_one: Submit, changes: dict[str, Any]
) -> None:
    quotas = DefaultQuotas(waiting_jobs=1)
    first = new_job(idempotency=idempotency("key"), **changes)
    accepted = await submit_one(first, quotas)
    assert isinstance(accepted, Submission)

    replayed = await submit_one(new_job(idempotency=idempotency("key"), **changes), quotas)
    assert isinstance(replayed, Submission)
    assert (replayed.kind, replayed.job_id) == (SubmissionKind.REPLAYED, first.id)
    # Nor is a commit whose answer was lost.
    again = await submit_one(first, quotas)
    assert isinstance(again, Submission)
    assert (again.kind, again.job_id) == (SubmissionKind.ACCEPTED, first.id)
    assert isinstance(await submit_one(new_job(), quotas), QuotaExceeded)
    assert (await used(jobs)).waiting_jobs == 1


async def test_a_live_twin_is_never_refused(submit_one: Submit) -> None:
    quotas = DefaultQuotas(waiting_jobs=1)
    first = new_job(unique_key="k")
    await submit_one(first, quotas)
    twin = await submit_one(new_job(unique_key="k"), quotas)
    assert isinstance(twin, Submission)
    assert (twin.kind, twin.job_id) == (SubmissionKind.DEDUPLICATED, first.id)


async def test_a_refused_key_is_free(submit_one: Submit, jobs: Jobs) -> None:
    quotas = DefaultQuotas(waiting_jobs=1)
    blocking = new_job()
    await submit_one(blocking, quotas)
    assert isinstance(
        await submit_one(new_job(idempotency=idempotency("key")), quotas), QuotaExceeded
    )
    assert await jobs.connection.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    await commands.cancel(jobs.connection, TENANT, blocking.id)
    accepted = await submit_one(new_job(idempotency=idempotency("key")), quotas)
    assert isinstance(accepted, Submission)
    assert accepted.kind is SubmissionKind.ACCEPTED


async def test_a_batch_is_judged_tenant_by_tenant_and_job_by_job(
    intake: IntakeDatabase, jobs: Jobs
) -> None:
    known = new_job(idempotency=idempotency("known"))
    await submit(jobs.connection, [known], with_pointers=True)
    batch = [
        new_job(),
        new_job(idempotency=idempotency("known")),
        new_job(tenant_id=OTHER),
        new_job(),
        new_job(idempotency=idempotency("new")),
        new_job(idempotency=idempotency("new")),
        new_job(payload={"text": "\x00"}),
        new_job(),
    ]
    async with intake.connection([TENANT, OTHER]) as connection:
        answers = await submit(
            connection, batch, with_pointers=True, quotas=DefaultQuotas(waiting_jobs=4)
        )
    kinds = [
        answer.kind.value if isinstance(answer, Submission) else type(answer).__name__
        for answer in answers
    ]
    assert kinds == [
        "accepted",
        "replayed",
        "accepted",
        "accepted",
        "accepted",
        "replayed",
        "InvalidContent",
        "QuotaExceeded",
    ]
    assert await used(jobs) == Usage(4, 4 * JOB)
    assert await counted_wrongly(jobs) == []


async def test_a_tenants_own_quota_stands_in_place_of_the_default(
    jobs: Jobs, submit_one: Submit
) -> None:
    await jobs.connection.execute(
        "INSERT INTO tenant_quotas (tenant_id, waiting_jobs) VALUES ($1, 2), ($2, 0)", TENANT, OTHER
    )
    defaults = DefaultQuotas(waiting_jobs=1)
    own = [await submit_one(new_job(), defaults) for _ in range(3)]
    others = [await submit_one(new_job(tenant_id=OTHER), defaults) for _ in range(3)]
    assert [isinstance(each, Submission) for each in own] == [True, True, False]
    assert all(isinstance(each, Submission) for each in others)


async def test_who_is_far_from_the_quota_waits_for_nobody(
    jobs: Jobs, submit_one: Submit, connect: Callable[[], Awaitable[asyncpg.Connection]]
) -> None:
    """Somebody else's submission is not committed, and has taken its turn."""
    holder = await connect()
    async with holder.transaction():
        await submit(
            holder,
            [new_job()],
            with_pointers=True,
            quotas=DefaultQuotas(waiting_jobs=NEAR_JOBS * 2),
        )
        await holder.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('quota ' || $1::text, 0))", str(TENANT)
        )
        far = submit_one(new_job(), DefaultQuotas(waiting_jobs=NEAR_JOBS * 2))
        assert isinstance(await asyncio.wait_for(far, 5), Submission)
        near = asyncio.create_task(submit_one(new_job(), DefaultQuotas(waiting_jobs=3)))
        await asyncio.wait({near}, timeout=0.2)
        assert not near.done()
    assert isinstance(await near, Submission)
    assert (await used(jobs)).waiting_jobs == 3


async def test_retries_and_larger_payloads_need_room(jobs: Jobs, tenants: TenantDatabase) -> None:
    ended, waiting = await jobs.submit(), await jobs.submit()
    await commands.cancel(jobs.connection, TENANT, ended)
    one = DefaultQuotas(waiting_jobs=1)
    async with tenants.connection(TENANT) as connection:
        with pytest.raises(QuotaExceeded):
            await commands.retry(connection, TENANT, ended, one)
        with pytest.raises(QuotaExceeded):
            await patching.patch(
                connection,
                TENANT,
                waiting,
                JobPatch(payload={"text": "more than hello"}),
                UNSEALED,
                if_version=None,
                quotas=DefaultQuotas(kept_bytes=2 * JOB),
            )
        await patching.patch(
            connection,
            TENANT,
            waiting,
            JobPatch(payload={}),
            UNSEALED,
            if_version=None,
            quotas=DefaultQuotas(kept_bytes=2 * JOB),
        )
        assert await jobs.state(ended) == "cancelled"
        await commands.retry(connection, TENANT, ended, DefaultQuotas(waiting_jobs=2))
    assert await used(jobs) == Usage(2, JOB + JOB_BYTES + 2)


async def test_folding_keeps_the_sums(jobs: Jobs, database: Database) -> None:
    for _ in range(5):
        await jobs.submit()
    await jobs.submit(tenant_id=OTHER)
    before = await used(jobs)

    assert await fold(jobs.connection, fold_from=3) == 5

    assert await used(jobs) == before
    assert await jobs.connection.fetchval("SELECT count(*) FROM tenant_usage") == 2
    assert await fold(jobs.connection, fold_from=3) == 0


async def test_folding_beside_others_loses_nothing(
    jobs: Jobs, connect: Callable[[], Awaitable[asyncpg.Connection]]
) -> None:
    async def submit_some() -> None:
        mine = Jobs(await connect())
        for _ in range(20):
            await mine.submit()

    async def fold_often() -> None:
        connection = await connect()
        for _ in range(30):
            await fold(connection, fold_from=2)

    await asyncio.gather(*(submit_some() for _ in range(3)), *(fold_often() for _ in range(3)))

    assert (await used(jobs)).waiting_jobs == 60
    assert await counted_wrongly(jobs) == []


async def test_a_count_in_too_many_rows_is_folded_by_who_submits(
    jobs: Jobs, submit_one: Submit
) -> None:
    await jobs.connection.execute(
        "INSERT INTO tenant_usage (tenant_id, waiting_jobs)"
        " SELECT $1, n % 2 * 2 - 1 FROM generate_series(1, $2) n",
        TENANT,
        FOLD_AT,
    )
    assert isinstance(await submit_one(new_job(), DefaultQuotas(waiting_jobs=10**6)), Submission)
    assert await used(jobs) == Usage(1, JOB)
    assert await jobs.connection.fetchval("SELECT count(*) FROM tenant_usage") == 2


async def test_drift_is_found_and_mended(jobs: Jobs) -> None:
    await jobs.submit()
    stray = uuid4()
    await jobs.connection.execute(
        "INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, scheduled_jobs)"
        " VALUES ($1, 5, -7, 1), ($2, 0, 3, 0)",
        TENANT,
        stray,
    )
    assert len(await counted_wrongly(jobs)) == 2

    assert await mend(jobs.connection) == {
        TENANT: {"waiting_jobs": -5, "kept_bytes": 7, "scheduled_jobs": -1},
        stray: {"kept_bytes": -3},
    }

    assert await counted_wrongly(jobs) == []
    assert await used(jobs) == Usage(1, JOB)
    assert await mend(jobs.connection) == {}


async def test_two_who_mend_at_once_add_the_difference_once(
    jobs: Jobs, connect: Callable[[], Awaitable[asyncpg.Connection]]
) -> None:
    await jobs.submit()
    await jobs.connection.execute(
        "INSERT INTO tenant_usage (tenant_id, waiting_jobs) VALUES ($1, 5)", TENANT
    )
    first = await connect()
    async with first.transaction():
        assert await mend(first) == {TENANT: {"waiting_jobs": -5}}
        assert await mend(jobs.connection) == {}
    assert await mend(jobs.connection) == {}
    assert await used(jobs) == Usage(1, JOB)
