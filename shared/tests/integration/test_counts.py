"""The jobs in each state are counted with every step, as a look at all of them would count them."""

from collections import Counter
from uuid import UUID, uuid4

import asyncpg
import pytest

from taskflow.jobs import commands, patching
from taskflow.jobs.quotas import STATE_COLUMNS, jobs_by_state
from taskflow.jobs.schemas import JobPatch
from taskflow.jobs.states import TERMINAL, TRANSITIONS, JobState, Transition
from taskflow.jobs.usage import count_changes, fold, mend
from taskflow.sealing.ring import SealingKeyRing
from taskflow_testing.histories import all_kinds
from taskflow_testing.jobs import TENANT, Jobs

COLUMNS = ("waiting_jobs", *STATE_COLUMNS.values())
SUMS = ", ".join(f"coalesce(sum({column}), 0)::bigint AS {column}" for column in COLUMNS)
# All that move a job, and what leaves no event.
MOVES: dict[str, Transition] = {
    event: each for event, each in TRANSITIONS.items() if each.sources != each.targets
}
MOVES |= {"delete": Transition(TERMINAL, frozenset())}


async def counted(connection: asyncpg.Connection, tenant_id: UUID = TENANT) -> dict[JobState, int]:
    sums = await connection.fetchrow(
        f"SELECT {SUMS} FROM tenant_usage WHERE tenant_id = $1", tenant_id
    )
    assert sums is not None
    return {state: number for state, number in jobs_by_state(dict(sums)).items() if number}


async def actual(connection: asyncpg.Connection, tenant_id: UUID = TENANT) -> dict[JobState, int]:
    rows = await connection.fetch(
        "SELECT state, count(*) AS jobs FROM jobs WHERE tenant_id = $1 GROUP BY state", tenant_id
    )
    return {JobState(row["state"]): row["jobs"] for row in rows}


async def test_every_way_of_a_job_is_counted(jobs: Jobs) -> None:
    other = uuid4()
    made = await all_kinds(jobs)
    await jobs.submit(tenant_id=other)
    assert await counted(jobs.connection) == await actual(jobs.connection)
    assert set(await counted(jobs.connection)) == set(JobState)
    assert await counted(jobs.connection, other) == {JobState.QUEUED: 1}

    for name in ("completed", "failed", "stopped", "expired"):
        await commands.delete(jobs.connection, TENANT, made[name])
    for name in ("used_up", "unwanted"):
        await commands.retry(jobs.connection, TENANT, made[name])
    for name in ("retrying", "scheduled", "blocked"):
        await commands.cancel(jobs.connection, TENANT, made[name])
    # It is only asked for: running it stays.
    await commands.cancel(jobs.connection, TENANT, made["running"])
    assert await counted(jobs.connection) == await actual(jobs.connection)


async def test_a_job_that_is_put_off_waits_elsewhere(jobs: Jobs) -> None:
    job_id = await jobs.submit()
    at_once, later = (
        JobPatch(run_at=None),
        JobPatch.model_validate({"run_at": "2100-01-01T00:00:00Z"}),
    )
    for change, state in ((later, JobState.SCHEDULED), (at_once, JobState.QUEUED)):
        await patching.patch(
            jobs.connection, TENANT, job_id, change, SealingKeyRing.of(""), if_version=None
        )
        assert await counted(jobs.connection) == {state: 1} == await actual(jobs.connection)


@pytest.mark.parametrize("transition", MOVES.values(), ids=MOVES)
async def test_what_is_left_out_can_not_have_changed(
    connection: asyncpg.Connection, transition: Transition
) -> None:
    """From each state of an event to each: what the statement counts is what a counter counts."""
    steps = [
        (source, target)
        for source in transition.sources or {None}
        for target in transition.targets or {None}
    ]
    expected = Counter[str]()
    for times, (source, target) in enumerate(steps, start=1):
        expected.update({f"{target}": times})
        expected.subtract({f"{source}": times})
    changes = """(
        SELECT $1::uuid AS tenant_id, source, state
        FROM unnest($2::job_state[], $3::job_state[]) WITH ORDINALITY AS step (source, state, times)
        CROSS JOIN LATERAL generate_series(1, times)
    ) AS steps"""
    stranger = uuid4()
    await connection.execute(
        count_changes(changes, sources=transition.sources, targets=transition.targets),
        stranger,
        [source for source, _ in steps],
        [target for _, target in steps],
    )
    sums = await connection.fetchrow(
        f"SELECT {SUMS} FROM tenant_usage WHERE tenant_id = $1", stranger
    )
    assert sums is not None
    found = {state: sums[column] for state, column in STATE_COLUMNS.items()}
    waiting = ("blocked", "queued", "retrying", "scheduled")
    assert found == {state: expected[state] for state in STATE_COLUMNS}
    assert sums["waiting_jobs"] == sum(expected[state] for state in waiting)


async def test_folding_keeps_what_is_in_each_state(jobs: Jobs) -> None:
    await all_kinds(jobs)
    before = await counted(jobs.connection)
    assert await fold(jobs.connection, fold_from=2) > len(COLUMNS)
    assert await jobs.connection.fetchval("SELECT count(*) FROM tenant_usage") == 1
    assert await counted(jobs.connection) == before
    assert await mend(jobs.connection) == {}


async def test_what_an_older_process_has_left_out_is_mended(jobs: Jobs) -> None:
    """It counts no states, and folds those that others have counted away; quotas stay right."""
    await all_kinds(jobs)
    await jobs.connection.execute(
        "WITH taken AS (DELETE FROM tenant_usage RETURNING *)"
        " INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, running_jobs)"
        " SELECT tenant_id, sum(waiting_jobs), sum(kept_bytes), sum(running_jobs)"
        " FROM taken GROUP BY tenant_id"
    )
    assert await counted(jobs.connection) != await actual(jobs.connection)

    (added,) = (await mend(jobs.connection)).values()

    assert not added.keys() & {"waiting_jobs", "kept_bytes", "running_jobs"}
    assert await counted(jobs.connection) == await actual(jobs.connection)
