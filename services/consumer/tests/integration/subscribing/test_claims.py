"""What is claimed when, who has the slots, and what becomes of claims under faults."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from taskflow.broker.connection import Broker
from taskflow.db.pool import Database
from taskflow.db.tenants import Session
from taskflow.jobs.contenders import Claim
from taskflow.jobs.fair_claim import Claimed, claim_fairly
from taskflow.jobs.lanes import Lane
from taskflow_consumer import resources
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_consumer.last_words import LastWords
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

from .house import LANES, Post, Start, depth, reach

pytestmark = pytest.mark.broker


async def test_pointers_without_a_slot_are_left_to_others(
    jobs: Jobs, post: Post, start: Start
) -> None:
    first = await start(concurrency=1)
    await reach(jobs, await post("busy", type="held"), "running")
    waiting = [await post(f"waiting{n}") for n in range(3)]

    second = await start(concurrency=1)

    for job_id in waiting:
        await reach(jobs, job_id, "completed")
    assert {text for text, _ in second.seen} == {"waiting0", "waiting1", "waiting2"}
    first.gate.set()


@dataclass(frozen=True)
class Asked:
    """What a claim asks for, and what waits behind it."""

    jobs: int
    waiting: int


@pytest.fixture
def claims(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """The claims of the lane in their order; the first one waits until all has been delivered."""
    claims: list[Asked] = []

    async def all_is_delivered() -> bool:
        return await depth(broker, "jobs.default.medium") == 0

    async def note(
        connection: Session, job_ids: Sequence[UUID], by: Claim, *, waiting: int, **changes: Any
    ) -> Claimed:
        claims.append(Asked(len(job_ids), waiting))
        if len(claims) == 1:
            await eventually(all_is_delivered)
        return await claim_fairly(connection, job_ids, by, waiting=waiting, **changes)

    monkeypatch.setattr("taskflow_consumer.taker.claim_fairly", note)
    return claims


async def test_slots_are_filled_by_halves(
    jobs: Jobs, post: Post, start: Start, claims: list[Asked]
) -> None:
    """So that one half is claimed while the other one runs."""
    posted = [await post(f"job{n}", type="held") for n in range(8)]
    house = await start(concurrency=5)

    async def all_slots_are_taken() -> bool:
        return len(house.seen) == 5

    await eventually(all_slots_are_taken)
    first, second, *_ = claims
    assert max(claim.jobs for claim in claims) == 3
    assert second == Asked(min(3, 5 - first.jobs), 8 - first.jobs - second.jobs)
    house.gate.set()
    for job_id in posted:
        await reach(jobs, job_id, "completed")


@pytest.mark.usefixtures("claims")
async def test_nobody_gives_way_while_there_is_a_slot_for_everybody(
    jobs: Jobs, post: Post, start: Start
) -> None:
    """Though a claim asks for no more than half of the slots."""
    waiting = [await post(f"job{n}", type="held") for n in range(3)]
    waiting.append(await post("another's", type="held", tenant_id=uuid4()))
    before = [(await jobs.row(job_id))["pointer_at"] for job_id in waiting]
    house = await start(concurrency=4)
    for job_id in waiting:
        await reach(jobs, job_id, "running")
    assert [(await jobs.row(job_id))["pointer_at"] for job_id in waiting] == before
    house.gate.set()
    for job_id in waiting:
        await reach(jobs, job_id, "completed")


@pytest.mark.usefixtures("claims")
async def test_no_slot_is_empty_while_somebody_has_given_way(
    jobs: Jobs, post: Post, start: Start
) -> None:
    """Though what runs in place of others leaves a pointer in hand that leads to nothing."""
    tenants = [TENANT] * 10 + [uuid4()] * 10 + [uuid4()] * 6
    waiting = [await post("text", type="held", tenant_id=tenant_id) for tenant_id in tenants]
    before = {job_id: (await jobs.row(job_id))["pointer_at"] for job_id in waiting}
    house = await start(concurrency=20)

    async def all_slots_are_taken() -> bool:
        return len(house.seen) == 20

    await eventually(all_slots_are_taken)
    after = {job_id: (await jobs.row(job_id))["pointer_at"] for job_id in waiting}
    assert sum(after[job_id] != before[job_id] for job_id in waiting) <= len(tenants) - 20
    house.gate.set()
    for job_id in waiting:
        await reach(jobs, job_id, "completed")

    async def no_pointer_is_expected_any_more() -> bool:
        return not house.taker._spent._bodies

    await eventually(no_pointer_is_expected_any_more)


async def test_a_claim_that_met_another_hands_nothing_back(
    jobs: Jobs, post: Post, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is there after a deadlock, and would have the claim once more."""
    handed_back: list[Lane] = []

    async def note(self: LaneConsumer) -> None:
        handed_back.append(self.lane)

    async def meet_another(*args: Any, again: bool, **kwargs: Any) -> Claimed:
        if not again:
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        return await claim_fairly(*args, again=again, **kwargs)

    monkeypatch.setattr("taskflow_consumer.taker.claim_fairly", meet_another)
    monkeypatch.setattr(LaneConsumer, "hand_back", note)
    await start()
    await reach(jobs, await post("once more"), "completed")
    assert handed_back == []


async def test_all_lanes_are_handed_back_at_once(
    jobs: Jobs, post: Post, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes long to answer keeps no other one."""
    together, hand_back = asyncio.Barrier(len(LANES)), LaneConsumer.hand_back
    alone: list[Lane] = []

    async def when_all_are_there(self: LaneConsumer) -> None:
        try:
            async with asyncio.timeout(2):
                await together.wait()
        except TimeoutError:
            alone.append(self.lane)
        await hand_back(self)

    monkeypatch.setattr(LaneConsumer, "hand_back", when_all_are_there)
    first = await start(concurrency=1)
    held = await post("held", type="held")
    await reach(jobs, held, "running")
    waiting = await post("waiting")
    await start(concurrency=1)
    await reach(jobs, waiting, "completed")
    assert alone == []
    first.gate.set()
    await reach(jobs, held, "completed")


async def test_who_is_cut_off_from_the_database_leaves_to_others_what_it_has_not_asked_for(
    jobs: Jobs, post: Post, start: Start, far: tuple[TcpProxy, Database]
) -> None:
    way, database = far
    cut_off = await start(concurrency=2, database=database)
    busy = [await post(f"busy{n}", type="held") for n in range(2)]
    for job_id in busy:
        await reach(jobs, job_id, "running")
    waiting = [await post(f"waiting{n}") for n in range(6)]
    way.freeze()
    cut_off.gate.set()

    await start(concurrency=2)

    async def all_but_one_are_done() -> bool:
        """The claim under way asks for one, half of the slots."""
        return [await jobs.state(job_id) for job_id in waiting].count("completed") == 5

    try:
        await eventually(all_but_one_are_done)
    finally:
        way.thaw()
    for job_id in (*busy, *waiting):
        await reach(jobs, job_id, "completed")


async def test_a_claims_answer_that_is_lost_along_with_the_broker_is_asked_for_again(
    jobs: Jobs, post: Post, start: Start, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TcpProxy(amqp_url) as proxy:
        house = await start(url=proxy.url)

        async def lose_the_first(*args: Any, again: bool, **kwargs: Any) -> Claimed:
            claimed = await claim_fairly(*args, again=again, **kwargs)
            if not again:
                proxy.cut()
                await eventually(broker_is_gone)
                raise asyncpg.ConnectionDoesNotExistError("the answer was lost")
            return claimed

        async def broker_is_gone() -> bool:
            return not house.consuming.connected

        monkeypatch.setattr("taskflow_consumer.taker.claim_fairly", lose_the_first)
        job_id = await post("once")
        await reach(jobs, job_id, "completed")
        assert house.seen == [("once", 1)]


async def test_who_stops_while_it_asks_for_more_claims_nothing_of_it(
    jobs: Jobs, post: Post, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await start(concurrency=1)
    await reach(jobs, await post("busy", type="held"), "running")
    waiting = await post("waiting")
    resume, stops = LaneConsumer.resume, []

    async def resume_and_stop(consumer: LaneConsumer) -> None:
        await resume(consumer)
        if consumer.lane != LANES[1]:
            return

        async def has_it() -> bool:
            return len(consumer) == 1

        await eventually(has_it)
        stops.append(asyncio.create_task(house.subscriber.stop()))
        await asyncio.sleep(0)

    monkeypatch.setattr(LaneConsumer, "resume", resume_and_stop)
    house.gate.set()

    async def it_stops() -> bool:
        return bool(stops)

    await eventually(it_stops)
    await stops[0]
    assert await jobs.state(waiting) == "queued"


async def test_what_was_claimed_starts_though_the_broker_takes_nothing(
    jobs: Jobs, post: Post, start: Start, amqp_url: str
) -> None:
    async with (
        TcpProxy(amqp_url) as proxy,
        resources.broker(proxy.url, "publish", LastWords()) as publishing,
    ):
        await asyncio.wait_for(publishing.wait_connected(), 20)
        house = await start(publishing=publishing, concurrency=3)
        busy = [await post(f"busy{n}", type="held") for n in range(3)]
        for job_id in busy:
            await reach(jobs, job_id, "running")
        proxy.freeze()
        # They are taken together as soon as there are slots for them.
        quick = await post("quick")
        await post("early", type="unknown")
        await post("early too", type="unknown")
        house.gate.set()

        await reach(jobs, quick, "completed")

        row = await jobs.row(quick)
        assert row["finished_at"] - row["started_at"] < timedelta(seconds=2)
