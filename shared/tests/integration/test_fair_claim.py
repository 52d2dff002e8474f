"""Claims where more waits than can run: turns between tenants, and quotas of running jobs."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn
from uuid import UUID, uuid4

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from taskflow.db.pool import Database
from taskflow.jobs.attempts import ClaimedJob, Gone, Later
from taskflow.jobs.commands import cancel
from taskflow.jobs.contenders import Claim
from taskflow.jobs.dispatch import stamp_due, stamp_lost, waiting_lanes
from taskflow.jobs.fair_claim import Claimed, claim_fairly
from taskflow.jobs.finishing import finish
from taskflow.jobs.holding import release
from taskflow.jobs.lanes import Lane
from taskflow.jobs.outcomes import completed
from taskflow.jobs.states import Priority
from taskflow.jobs.tenant_turns import Turn, take_turns
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.waiting import eventually

QUIET = UUID("00000000-0000-7000-8000-00000000000b")
LANE = Lane("default", Priority.MEDIUM)


def by(quota: int = 0, **changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "worker_id": uuid7(),
        "token": uuid7(),
        "lease_seconds": 15.0,
        "job_types": ["echo"],
        "running_quota": quota,
    }
    return Claim(**fields | changes)


def ran(claimed: Claimed) -> list[UUID]:
    started = [each for each in claimed.verdicts if isinstance(each, ClaimedJob)]
    return [each.attempt.job_id for each in [*started, *claimed.instead]]


async def submitted(jobs: Jobs, count: int, tenant_id: UUID = TENANT) -> list[UUID]:
    return [await jobs.submit(tenant_id=tenant_id) for _ in range(count)]


async def submitted_to(queue: str, jobs: Jobs, count: int) -> list[UUID]:
    return [await jobs.submit(queue=queue) for _ in range(count)]


async def _never(*_: object) -> NoReturn:
    raise AssertionError("there is nobody to look for")


async def running(jobs: Jobs, tenant_id: UUID = TENANT) -> int:
    count: int = await jobs.connection.fetchval(
        "SELECT count(*) FROM jobs WHERE state = 'running' AND tenant_id = $1", tenant_id
    )
    return count


async def held(jobs: Jobs) -> set[UUID]:
    rows = await jobs.connection.fetch(
        "SELECT id FROM jobs WHERE pointer_at = 'infinity' AND state = 'queued'"
    )
    return {row["id"] for row in rows}


@pytest.mark.parametrize("to_spare", [0, 1])
async def test_alone_everything_is_claimed(jobs: Jobs, to_spare: int) -> None:
    wanted = await submitted(jobs, 3)
    claimed = await claim_fairly(jobs.connection, wanted, by(), slots=len(wanted) + to_spare)
    assert ran(claimed) == wanted
    assert claimed.instead == []


async def test_with_slots_to_spare_nobody_gives_way(jobs: Jobs) -> None:
    noisy = await submitted(jobs, 2)
    await submitted(jobs, 2, QUIET)
    claimed = await claim_fairly(jobs.connection, noisy, by(), slots=len(noisy) + 1)
    assert ran(claimed) == noisy


async def test_a_job_of_another_tenant_runs_in_place_of_a_noisy_ones(
    jobs: Jobs, database: Database
) -> None:
    noisy = await submitted(jobs, 4)
    (quiet,) = await submitted(jobs, 1, QUIET)
    await jobs.claim(noisy[0])

    async with database.connection() as connection:
        claimed = await claim_fairly(connection, [noisy[1]], by(), slots=1)

    assert ran(claimed) == [quiet]
    (verdict,) = claimed.verdicts
    # Its pointer goes once round the ladder, and counts as sent when it is back.
    assert isinstance(verdict, Later)
    row = await jobs.row(noisy[1])
    assert (verdict.pointer.job_id, verdict.pointer.pointer_at) == (noisy[1], row["pointer_at"])
    ahead = await jobs.connection.fetchval("SELECT $1 - clock_timestamp()", row["pointer_at"])
    assert 0.5 < ahead.total_seconds() <= 1
    # The pointer of the quiet one finds nothing to do.
    assert (await claim_fairly(jobs.connection, [quiet], by(), slots=2)).verdicts == [Gone(quiet)]
    # The noisy one's own is claimed when its turn comes.
    again = await claim_fairly(jobs.connection, [noisy[1]], by(), slots=1)
    assert ran(again) == [noisy[1]]


async def test_slots_are_shared_between_those_who_wait(jobs: Jobs) -> None:
    noisy = await submitted(jobs, 8)
    await submitted(jobs, 8, QUIET)
    claimed = await claim_fairly(jobs.connection, noisy, by(), slots=len(noisy))
    assert len(ran(claimed)) == 8
    assert (await running(jobs), await running(jobs, QUIET)) == (4, 4)
    later = [each for each in claimed.verdicts if isinstance(each, Later)]
    assert len(later) == 4


async def test_who_all_have_a_pointer_in_hand_need_no_turns(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow.jobs.fair_claim.look_at_rivals", _never)
    tenants = [TENANT, QUIET, *(uuid4() for _ in range(5))]
    wanted = [await jobs.submit(tenant_id=tenant_id) for tenant_id in tenants]
    await submitted(jobs, 3)
    claimed = await claim_fairly(jobs.connection, wanted, by(), slots=len(wanted))
    assert ran(claimed) == wanted


@pytest.mark.parametrize("place", range(7))
async def test_one_of_many_who_has_none_in_hand_has_its_turn(jobs: Jobs, place: int) -> None:
    """Wherever it stands among them: they are gone through in a circle."""
    tenants = [UUID(int=number << 96) for number in range(1, 8)]
    hidden = tenants[place]
    wanted = [
        await jobs.submit(tenant_id=tenant_id) for tenant_id in tenants * 2 if tenant_id != hidden
    ]
    (its,) = await submitted(jobs, 1, hidden)
    claimed = await claim_fairly(jobs.connection, wanted, by(), slots=len(wanted))
    assert its in ran(claimed)
    assert len(ran(claimed)) == len(wanted)


async def test_a_pointer_that_leads_to_nothing_is_nobodys_turn(jobs: Jobs) -> None:
    noisy = await submitted(jobs, 3)
    spent, *waiting = await submitted(jobs, 3, QUIET)
    await jobs.claim(spent)
    claimed = await claim_fairly(jobs.connection, [*noisy, spent], by(), slots=4)
    assert {*ran(claimed)} & {*waiting}


async def test_no_more_start_than_there_are_slots(jobs: Jobs) -> None:
    """Also where one lane has nothing to decide, and jobs of another tenant start in the other."""
    alone = await submitted_to("alone", jobs, 3)
    noisy = await submitted(jobs, 3)
    await submitted(jobs, 3, QUIET)
    claimed = await claim_fairly(jobs.connection, [*alone, *noisy], by(), slots=6, waiting=0)
    assert len(ran(claimed)) == 6


@pytest.mark.parametrize("quota", [0, 5])
async def test_with_slots_to_spare_nobody_is_looked_for(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, quota: int
) -> None:
    monkeypatch.setattr("taskflow.jobs.fair_claim.look_at_rivals", _never)
    noisy = await submitted(jobs, 2)
    await submitted(jobs, 2, QUIET)
    claimed = await claim_fairly(jobs.connection, noisy, by(quota), slots=3)
    assert ran(claimed) == noisy


async def test_no_more_give_way_than_there_are_too_many(jobs: Jobs) -> None:
    """Seven for six slots, of which a claim takes half: one comes again in a moment, not two."""
    noisy = await submitted(jobs, 4)
    quiet = await submitted(jobs, 3, QUIET)
    claimed = await claim_fairly(jobs.connection, noisy[:3], by(), slots=6, waiting=4)
    assert [type(each) for each in claimed.verdicts].count(Later) == 1
    assert await running(jobs, QUIET) >= 1
    left = {*noisy, *quiet} - {*ran(claimed)} - {*noisy[:3]}
    free = 6 - len(ran(claimed))
    last = await claim_fairly(jobs.connection, list(left)[:free], by(), slots=free)
    assert await running(jobs) + await running(jobs, QUIET) == 6, last


async def test_with_room_for_both_they_run_together(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full claim may hide others: they are looked for, but nobody gives way to them."""
    monkeypatch.setattr("taskflow.jobs.fair_claim.MAX_CLAIM", 2)
    noisy = await submitted(jobs, 2)
    (quiet,) = await submitted(jobs, 1, QUIET)
    claimed = await claim_fairly(jobs.connection, noisy, by(), slots=4)
    assert {*ran(claimed)} == {*noisy, quiet}


@pytest.mark.parametrize(
    "change",
    [
        "priority = 'high'",
        "queue = 'elsewhere'",
        "type = 'unknown'",
        "run_at = now() + interval '1 h', state = 'retrying', pointer_at = now() + interval '1 h'",
        "expires_at = now()",
        "pointer_at = NULL",
        "attempt_limit = 0",
    ],
)
async def test_nobody_gives_way_to_what_could_not_run_here(jobs: Jobs, change: str) -> None:
    noisy = await submitted(jobs, 2)
    (quiet,) = await submitted(jobs, 1, QUIET)
    await jobs.claim(noisy[0])
    await jobs.connection.execute(f"UPDATE jobs SET {change} WHERE id = $1", quiet)
    claimed = await claim_fairly(jobs.connection, [noisy[1]], by(), slots=1)
    assert ran(claimed) == [noisy[1]]


async def test_many_tenants_all_have_their_turn(jobs: Jobs) -> None:
    noisy = await submitted(jobs, 5)
    tenants = [UUID(int=number) for number in range(1, 6)]
    for tenant_id in tenants:
        await submitted(jobs, 3, tenant_id)
    claimed = await claim_fairly(jobs.connection, noisy, by(), slots=len(noisy))
    counts = Counter([(await jobs.row(job_id))["tenant_id"] for job_id in ran(claimed)])
    assert len(counts) == 5
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("quota", [0, 2])
async def test_a_claim_whose_answer_was_lost_is_found_again(jobs: Jobs, quota: int) -> None:
    noisy = await submitted(jobs, 4)
    await submitted(jobs, 4, QUIET)
    same = by(quota)
    first = await claim_fairly(jobs.connection, noisy, same, slots=len(noisy))
    again = await claim_fairly(jobs.connection, noisy, same, slots=len(noisy), again=True)
    assert set(ran(again)) == set(ran(first))
    assert len(ran(first)) == 4
    assert await running(jobs) + await running(jobs, QUIET) == 4


async def test_what_ran_instead_is_found_again_though_nobody_contends_any_more(jobs: Jobs) -> None:
    noisy = await submitted(jobs, 2)
    (quiet,) = await submitted(jobs, 1, QUIET)
    await jobs.claim(noisy[0])
    same = by()
    await claim_fairly(jobs.connection, [noisy[1]], same, slots=1)

    again = await claim_fairly(jobs.connection, [noisy[1]], same, slots=1, again=True)

    # Started is the one that this worker would else let die, and no more than it has slots for.
    assert ran(again) == [quiet]
    (verdict,) = again.verdicts
    assert isinstance(verdict, Later)
    assert await running(jobs) == 1


async def test_a_claim_that_took_nothing_is_made_again(jobs: Jobs) -> None:
    wanted = await submitted(jobs, 2)
    claimed = await claim_fairly(jobs.connection, wanted, by(), slots=len(wanted), again=True)
    assert ran(claimed) == wanted


async def test_a_slot_whose_job_another_one_got_first_is_not_left_empty(
    jobs: Jobs, connect: Callable[[], Awaitable[asyncpg.Connection]]
) -> None:
    noisy = await submitted(jobs, 2)
    (quiet,) = await submitted(jobs, 1, QUIET)
    await jobs.claim(noisy[0])
    first, second = await connect(), await connect()

    async with first.transaction():
        await claim_fairly(first, [quiet], by(), slots=2)
        meanwhile = asyncio.create_task(
            claim_fairly(second, [noisy[1]], by(), slots=1), name="second"
        )
        await eventually(lambda: _waits_for_a_row(jobs, second))

    assert ran(await meanwhile) == [noisy[1]]


async def _waits_for_a_row(jobs: Jobs, connection: asyncpg.Connection) -> bool:
    waits: bool = await jobs.connection.fetchval(
        "SELECT wait_event_type = 'Lock' IS TRUE FROM pg_stat_activity WHERE pid = $1",
        connection.get_server_pid(),
    )
    return waits


async def test_who_has_a_job_in_hand_in_one_lane_has_its_turn_in_another(jobs: Jobs) -> None:
    noisy = await submitted(jobs, 4)
    await jobs.claim(*noisy[:3])
    await jobs.submit(priority=Priority.LOW)
    first = await jobs.submit(tenant_id=QUIET)
    low = await jobs.submit(tenant_id=QUIET, priority=Priority.LOW)

    claimed = await claim_fairly(jobs.connection, [noisy[3], low], by(), slots=2)

    assert set(ran(claimed)) == {first, low}


async def test_who_freezes_in_its_turn_does_not_keep_it(jobs: Jobs) -> None:
    async with jobs.connection.transaction():
        await take_turns(jobs.connection, [TENANT], Turn.RUNNING)
        limit = await jobs.connection.fetchval("SHOW idle_in_transaction_session_timeout")
    assert limit == "2s"
    assert await jobs.connection.fetchval("SHOW idle_in_transaction_session_timeout") != "2s"


async def test_two_who_want_the_same_job_get_it_once(
    jobs: Jobs, connect: Callable[[], Awaitable[asyncpg.Connection]]
) -> None:
    noisy = await submitted(jobs, 6)
    (quiet,) = await submitted(jobs, 1, QUIET)
    await jobs.claim(*noisy[:2])
    connections = [await connect() for _ in noisy[2:]]
    answers = await asyncio.gather(
        *(
            claim_fairly(connection, [job_id], by(), slots=1)
            for connection, job_id in zip(connections, noisy[2:], strict=True)
        )
    )
    starts = [job_id for answer in answers for job_id in ran(answer)]
    assert starts.count(quiet) == 1
    assert len(starts) == len(set(starts))


async def test_what_is_beyond_the_quota_waits_and_starts_after_one_ends(jobs: Jobs) -> None:
    wanted = await submitted(jobs, 5)
    first = await claim_fairly(jobs.connection, wanted, by(quota=2), slots=len(wanted) + 1)
    assert ran(first) == wanted[:2]
    assert first.verdicts[2:] == [Gone(job_id) for job_id in wanted[2:]]
    assert await held(jobs) == set(wanted[2:])
    # Neither the dispatch nor the rule for lost pointers takes them for its own.
    assert await stamp_due(jobs.connection) == []
    assert await stamp_due(jobs.connection, without=[Lane("x", Priority.LOW)]) == []
    seen_at = (await waiting_lanes(jobs.connection))[LANE]
    assert await stamp_lost(jobs.connection, LANE, empty_at=seen_at, lost_after_seconds=0) == []
    assert await release(jobs.connection, running_quota=2) == []

    (done, _) = [each for each in first.verdicts if isinstance(each, ClaimedJob)]
    await finish(jobs.connection, [(done.attempt, completed("1"))])

    (pointer,) = await release(jobs.connection, running_quota=2)
    assert pointer.job_id == wanted[2]
    assert (await jobs.row(wanted[2]))["pointer_at"] == pointer.pointer_at
    second = await claim_fairly(jobs.connection, [wanted[2]], by(quota=2), slots=2)
    assert ran(second) == [wanted[2]]


async def test_a_quota_is_kept_whoever_claims_at_once(
    jobs: Jobs, connect: Callable[[], Awaitable[asyncpg.Connection]]
) -> None:
    wanted = await submitted(jobs, 40)
    parts = [wanted[start::8] for start in range(8)]
    connections = [await connect() for _ in parts]
    await asyncio.gather(
        *(
            claim_fairly(connection, part, by(quota=7), slots=len(part) + 1)
            for connection, part in zip(connections, parts, strict=True)
        )
    )
    assert await running(jobs) == 7
    assert len(await held(jobs)) == 33


async def test_what_came_later_does_not_overtake_what_is_held(jobs: Jobs) -> None:
    wanted = await submitted(jobs, 3)
    first = await claim_fairly(jobs.connection, wanted, by(quota=1), slots=len(wanted) + 1)
    (done,) = [each for each in first.verdicts if isinstance(each, ClaimedJob)]
    await finish(jobs.connection, [(done.attempt, completed("1"))])
    (fresh,) = await submitted(jobs, 1)

    second = await claim_fairly(jobs.connection, [fresh], by(quota=1), slots=2)

    assert ran(second) == [wanted[1]]
    assert await held(jobs) == {wanted[2], fresh}


async def test_a_tenant_at_its_quota_leaves_the_slot_to_others(jobs: Jobs) -> None:
    noisy = await submitted(jobs, 3)
    quiet = await submitted(jobs, 2, QUIET)
    await jobs.connection.execute(
        "INSERT INTO tenant_quotas (tenant_id, running_jobs) VALUES ($1, 1)", TENANT
    )
    claimed = await claim_fairly(jobs.connection, noisy, by(), slots=len(noisy))
    assert len(ran(claimed)) == 3
    assert set(quiet) < set(ran(claimed))
    assert await running(jobs) == 1


async def test_a_held_job_can_be_cancelled_and_run_after_a_retry(jobs: Jobs) -> None:
    wanted = await submitted(jobs, 2)
    await claim_fairly(jobs.connection, wanted, by(quota=1), slots=len(wanted) + 1)
    await cancel(jobs.connection, TENANT, wanted[1])
    assert await release(jobs.connection, running_quota=5) == []
    # A stray pointer of it finds nothing.
    gone = await claim_fairly(jobs.connection, [wanted[1]], by(), slots=2)
    assert gone.verdicts == [Gone(wanted[1])]


async def test_without_the_quota_all_are_released(jobs: Jobs) -> None:
    wanted = await submitted(jobs, 4)
    await claim_fairly(jobs.connection, wanted, by(quota=1), slots=len(wanted) + 1)
    released = await release(jobs.connection, running_quota=0)
    assert {pointer.job_id for pointer in released} == set(wanted[1:])


async def test_each_tenant_has_as_many_released_as_it_may_start(jobs: Jobs) -> None:
    for tenant_id, most in ((TENANT, 2), (QUIET, 3)):
        await jobs.connection.execute(
            "INSERT INTO tenant_quotas (tenant_id, running_jobs) VALUES ($1, $2)", tenant_id, most
        )
        await submitted(jobs, 6, tenant_id)
    await jobs.connection.execute("UPDATE jobs SET pointer_at = 'infinity'")
    released = await release(jobs.connection, running_quota=0)
    tenants = Counter([(await jobs.row(pointer.job_id))["tenant_id"] for pointer in released])
    assert tenants == {TENANT: 2, QUIET: 3}
