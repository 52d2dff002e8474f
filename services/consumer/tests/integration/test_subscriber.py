"""The way of pointers through real servers: lanes, claims, acknowledgements, outcomes."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import structlog
from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import ChannelNotFoundEntity
from uuid_utils.compat import uuid7

from taskflow import Backoff, Fail, JobContext, Registry, job
from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database, open_database
from taskflow.db.roles import DatabaseRole
from taskflow.db.tenants import Session
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.contenders import Claim
from taskflow.jobs.fair_claim import Claimed, claim_fairly
from taskflow.jobs.lanes import Lane
from taskflow.jobs.outcomes import Attempt
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.sealing.ring import SealingKeyRing
from taskflow_consumer import resources
from taskflow_consumer.executor import Executor
from taskflow_consumer.handler_chain import HandlerChain
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_consumer.last_words import LastWords
from taskflow_consumer.recorder import Recorder
from taskflow_consumer.subscriber import Subscriber
from taskflow_consumer.taker import Claimer, Taker
from taskflow_consumer.watchdog import MISSES_ALLOWED, Watchdog
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

LANES = [Lane("default", priority) for priority in Priority]


class Ours:
    """Stands in for our own heartbeat, log shipper and the rest: takes everything, does nothing."""

    def hold(self, attempt: Attempt, deadline_seconds: float | None) -> None: ...

    def hold_all(self, attempts: Sequence[Attempt]) -> None: ...

    def drop(self, attempt: Attempt) -> None: ...

    def report(self, attempt: Attempt, percent: float, message: str | None) -> None: ...

    def is_unsettled(self, _: Attempt) -> bool:
        return False

    async def settle(self, attempt: Attempt) -> None: ...

    def open(self, _: ClaimedJob) -> "Ours":
        return self

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None: ...

    async def close(self) -> None: ...


class House:
    """One consumer's insides, and what its handlers saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.watermarks: dict[str, datetime] = {}
        self.consuming: Broker
        self.subscriber: Subscriber

    def note(self, lane_key: str, pointer_at: datetime) -> None:
        self.watermarks[lane_key] = max(pointer_at, self.watermarks.get(lane_key, pointer_at))

    def registry(self) -> Registry:
        @job("echo")
        async def echo(payload: dict[str, Any], ctx: JobContext) -> str:
            self.seen.append((payload["text"], ctx.attempt))
            return str(payload["text"])

        @job("held")
        async def held(payload: dict[str, Any], ctx: JobContext) -> None:
            self.seen.append((payload["text"], ctx.attempt))
            await self.gate.wait()

        @job("flaky", backoff=Backoff(base_seconds=0.5, jitter=0))
        async def flaky(payload: dict[str, Any], ctx: JobContext) -> None:
            self.seen.append((payload["text"], ctx.attempt))
            if ctx.attempt == 1:
                raise ValueError("not yet")

        @job("broken")
        async def broken(payload: dict[str, Any]) -> None:
            raise Fail("never")

        return Registry([f.job_type for f in (echo, held, flaky, broken)])


Start = Callable[..., Awaitable[House]]


@asynccontextmanager
async def database_at(url: str, timeout_seconds: float = 5) -> AsyncIterator[Database]:
    database = await open_database(
        url,
        role=DatabaseRole.CONSUMER,
        application_name="test",
        pool_size=4,
        statement_timeout_seconds=timeout_seconds,
        acquire_timeout_seconds=timeout_seconds,
    )
    yield database
    await database.close()


@pytest.fixture
async def database(clean_database: str) -> AsyncIterator[Database]:
    async with database_at(clean_database) as database:
        yield database


@pytest.fixture
async def far(clean_database: str) -> AsyncIterator[tuple[TcpProxy, Database]]:
    """The same database by a way that can be cut; it is there until the last subscriber ends."""
    async with (
        TcpProxy(clean_database) as proxy,
        database_at(proxy.url, timeout_seconds=1) as database,
    ):
        yield proxy, database


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(resources.broker(amqp_url, "test", LastWords()))
        await asyncio.wait_for(broker.wait_connected(), 20)
        async with broker.short_channel() as channel:
            for lane in LANES:
                await channel.queue_delete(topology.lane_queue(lane))
            await topology.declare(channel)
            for lane in LANES:
                await topology.declare_lane(channel, lane)
            # What another test has left there would arrive in the middle of this one.
            for name in topology.QUEUES:
                await (await channel.get_queue(name, ensure=False)).purge()
        yield broker


@pytest.fixture
async def start(
    broker: Broker, database: Database, far: tuple[TcpProxy, Database], amqp_url: str
) -> AsyncIterator[Start]:
    del far  # A subscriber ends with its last claim, which may go that way.
    async with AsyncExitStack() as stack:

        async def start_consumer(
            *,
            concurrency: int = 4,
            url: str = amqp_url,
            publishing: Broker = broker,
            database: Database = database,
        ) -> House:
            house = House()
            consuming = house.consuming = await stack.enter_async_context(
                resources.broker(url, "consume", LastWords())
            )
            publisher = Publisher(publishing, timeout_seconds=5)
            relay = await stack.enter_async_context(
                resources.relay(publisher, database, LastWords())
            )
            ours: Any = Ours()
            registry = house.registry()
            chain = HandlerChain(
                registry,
                leases=ours,
                artifacts=ours,
                ring=SealingKeyRing({}),
                log=structlog.get_logger(),
                result_inline_bytes=1000,
                result_max_bytes=1000,
            )
            executor = Executor(
                registry,
                chain.run,
                recorder=Recorder(database, relay),
                leases=ours,
                log_shipper=ours,
                artifacts=ours,
                checkpoints=ours,
                progress=ours,
                log=structlog.get_logger(),
                random=random.Random(1),
                concurrency=concurrency,
            )
            stack.push_async_callback(executor.drain, 0)
            taker = Taker(
                publisher=publisher,
                relay=relay,
                database=database,
                executor=executor,
                claimer=Claimer(uuid7(), registry.names, 15.0),
                on_watermark=house.note,
            )
            subscriber = house.subscriber = Subscriber(
                broker=consuming, taker=taker, executor=executor, lanes=LANES
            )
            subscriber.start()
            stack.push_async_callback(subscriber.stop)
            return house

        yield start_consumer


@pytest.fixture
async def jobs(clean_database: str) -> AsyncIterator[Jobs]:
    connection = await asyncpg.connect(clean_database)
    yield Jobs(connection)
    await connection.close()


@pytest.fixture
def post(jobs: Jobs, broker: Broker) -> Callable[..., Awaitable[UUID]]:
    publisher = Publisher(broker, timeout_seconds=5)

    async def post_job(text: str, **changes: Any) -> UUID:
        job_id = await jobs.submit(payload={"text": text}, **changes)
        row = await jobs.row(job_id)
        lane = Lane(row["queue"], Priority(row["priority"]))
        await publisher.publish(Pointer(job_id, lane, row["type"], row["pointer_at"]))
        return job_id

    return post_job


Post = Callable[..., Awaitable[UUID]]


async def reach(jobs: Jobs, job_id: UUID, state: str) -> None:
    async def there() -> bool:
        return await jobs.state(job_id) == state

    await eventually(there)


async def depth(broker: Broker, queue_name: str) -> int:
    async with broker.short_channel() as channel:
        queue = await channel.declare_queue(queue_name, passive=True)
        return queue.declaration_result.message_count or 0


async def test_a_pointer_becomes_a_completed_job(jobs: Jobs, post: Post, start: Start) -> None:
    house = await start()
    job_id = await post("hello")
    await reach(jobs, job_id, "completed")
    assert house.seen == [("hello", 1)]
    assert (await jobs.row(job_id))["result"] == '"hello"'
    assert list(house.watermarks) == ["default.medium"]


async def test_the_most_urgent_come_first(jobs: Jobs, post: Post, start: Start) -> None:
    posted = [
        await post(f"{priority}{n}", priority=priority) for n in range(2) for priority in Priority
    ]
    house = await start(concurrency=1)
    for job_id in posted:
        await reach(jobs, job_id, "completed")
    # What arrives in the first moment is taken as it comes; after that the order is strict.
    order = [text.rstrip("01") for text, _ in house.seen]
    assert order[2:] == sorted(order[2:], key=lambda name: -list(Priority).index(Priority(name)))


async def test_a_running_jobs_pointer_is_acknowledged_already(
    jobs: Jobs, post: Post, start: Start, amqp_url: str
) -> None:
    async with TcpProxy(amqp_url) as proxy:
        house = await start(url=proxy.url)
        job_id = await post("once", type="held")
        await reach(jobs, job_id, "running")
        proxy.cut()
        marker = await post("after")
        await reach(jobs, marker, "completed")
        house.gate.set()
        await reach(jobs, job_id, "completed")
    assert house.seen.count(("once", 1)) == 1


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


async def test_a_failure_comes_back_over_the_ladder(jobs: Jobs, post: Post, start: Start) -> None:
    house = await start()
    job_id = await post("again", type="flaky")
    await reach(jobs, job_id, "completed")
    assert house.seen == [("again", 1), ("again", 2)]
    events = [event for event, _, _ in await jobs.history(job_id)]
    assert events == ["submit", "claim", "fail", "claim", "succeed"]


async def test_a_permanent_failure_is_buried(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    await start()
    job_id = await post("x", type="broken")
    await reach(jobs, job_id, "failed")

    async def buried() -> bool:
        return await depth(broker, topology.DEAD_QUEUE) == 1

    await eventually(buried)


async def test_garbage_is_buried_and_work_goes_on(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    async with broker.short_channel() as channel:
        exchange = await channel.get_exchange(topology.JOBS_EXCHANGE)
        for body in (b"\xff", b"{}", b'{"v":1,"job_id":"x"}', b""):
            await exchange.publish(Message(body), "default.medium")
    await publisher.publish(Pointer(uuid7(), LANES[1], "echo", (await _now(jobs))))
    await start()
    await reach(jobs, await post("after"), "completed")

    async def buried() -> bool:
        return await depth(broker, topology.DEAD_QUEUE) == 4

    await eventually(buried)
    assert await depth(broker, "jobs.default.medium") == 0


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


async def test_a_stamp_ahead_of_its_time_is_no_watermark(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    # As when a retry that waits on the ladder is cancelled, or moved to an earlier time.
    ahead = await _now(jobs) + timedelta(minutes=20)
    await publisher.publish(Pointer(uuid7(), LANES[1], "echo", ahead))
    moved = await jobs.submit(payload={"text": "moved"})
    await publisher.publish(Pointer(moved, LANES[1], "echo", ahead))

    house = await start()
    await reach(jobs, moved, "completed")
    await reach(jobs, await post("after"), "completed")

    assert house.watermarks["default.medium"] <= await _now(jobs)


async def _now(jobs: Jobs) -> Any:
    return await jobs.connection.fetchval("SELECT now()")


async def test_a_lane_that_was_deleted_is_taken_up_again(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    house = await start()
    await reach(jobs, await post("before"), "completed")
    async with broker.short_channel() as channel:
        await channel.queue_delete("jobs.default.medium")

    async def lane_is_back() -> bool:
        async with broker.short_channel() as channel:
            queues = await channel.declare_queue("jobs.default.medium", passive=True)
            return bool(queues.declaration_result.consumer_count)

    async def lane_is_back_or_not_yet() -> bool:
        try:
            return await lane_is_back()
        except Exception:  # noqa: BLE001 - a passive look at a queue that isn't there yet
            return False

    await eventually(lane_is_back_or_not_yet)
    await reach(jobs, await post("after"), "completed")
    assert house.seen == [("before", 1), ("after", 1)]


async def test_jobs_are_run_once_under_a_broken_network(
    jobs: Jobs, post: Post, start: Start, amqp_url: str
) -> None:
    async with TcpProxy(amqp_url) as proxy:
        house = await start(url=proxy.url, concurrency=8)
        posted = []
        for n in range(60):
            posted.append(await post(f"job{n}"))
            if n % 12 == 5:
                proxy.cut()
        for job_id in posted:
            await reach(jobs, job_id, "completed")
    assert sorted(house.seen) == sorted((f"job{n}", 1) for n in range(60))


async def test_a_pointer_that_was_replaced_does_not_circle(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    job_id = await post("who knows", type="unknown")
    lane, stamp = LANES[1], await _now(jobs)
    for _ in range(3):
        await publisher.publish(Pointer(job_id, lane, "unknown", stamp - timedelta(minutes=1)))
    async with broker.short_channel() as channel:
        await (await channel.get_queue(topology.retry_exchange(5))).purge()

    await start()
    await reach(jobs, await post("after"), "completed")

    async def lane_is_empty() -> bool:
        return await depth(broker, "jobs.default.medium") == 0

    await eventually(lane_is_empty)
    assert await depth(broker, topology.retry_exchange(5)) == 1


async def test_a_consumer_that_was_forgotten_subscribes_anew_when_it_misses_something(
    jobs: Jobs, post: Post, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_consumer.watchdog.LOOK_SECONDS", 0.3)
    resume, look = LaneConsumer.resume, Watchdog.look
    deaf: set[LaneConsumer] = set()
    looks: list[list[str]] = []

    async def resume_in_vain(consumer: LaneConsumer) -> None:
        """The first of each lane believes that it consumes, and the broker knows nothing of it."""
        if len(deaf) < len(LANES):
            deaf.add(consumer)
        if consumer in deaf:
            consumer._wanted = consumer._consumes = True
        else:
            await resume(consumer)

    async def note(watchdog: Watchdog) -> list[str]:
        looks.append(await look(watchdog))
        return looks[-1]

    monkeypatch.setattr(LaneConsumer, "resume", resume_in_vain)
    monkeypatch.setattr(Watchdog, "look", note)
    house = await start()

    async def looked_often() -> bool:
        return len(looks) >= 2 * MISSES_ALLOWED

    await eventually(looked_often)
    # Without a message it may be a queue whose leader doesn't answer.
    assert not any(looks)

    await reach(jobs, await post("missed"), "completed")

    assert ["default.medium"] in looks
    assert house.seen == [("missed", 1)]


async def test_a_lane_that_was_deleted_without_a_word_is_missed(
    start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_consumer.watchdog.LOOK_SECONDS", 0.2)
    monkeypatch.setattr(LaneConsumer, "_lost", lambda *_: None)
    await start()
    await is_consumed_in_the_end(broker, "jobs.default.medium")
    async with broker.short_channel() as channel:
        await channel.queue_delete("jobs.default.medium")

    # Nobody publishes anything that would bring it back.
    await is_consumed_in_the_end(broker, "jobs.default.medium")


async def is_consumed_in_the_end(broker: Broker, queue_name: str, consumed: bool = True) -> None:
    async def is_so() -> bool:
        try:
            async with broker.short_channel() as channel:
                queue = await channel.declare_queue(queue_name, passive=True)
        except ChannelNotFoundEntity:
            return not consumed
        return bool(queue.declaration_result.consumer_count) is consumed

    await eventually(is_so)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_consumer.lane_consumer.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("taskflow_consumer.lanes_aside.FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr("taskflow_consumer.subscriber.HAND_BACK_AFTER_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
async def test_a_lane_that_refuses_keeps_no_other_lane_from_its_worker(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    async def ignore(_: AbstractIncomingMessage) -> None: ...

    async with broker.short_channel() as holder:
        # A queue of somebody's own, of which nobody else may consume.
        await holder.queue_delete("jobs.default.urgent")
        refusing = await holder.declare_queue("jobs.default.urgent", durable=True)
        await refusing.bind(topology.JOBS_EXCHANGE, routing_key="default.urgent")
        tag = await refusing.consume(ignore, exclusive=True)
        await start()

        for n in range(3):
            await reach(jobs, await post(f"other{n}"), "completed")

        await refusing.cancel(tag)
        await is_consumed_in_the_end(broker, "jobs.default.urgent")


class DeafProxy(TcpProxy):
    """Keeps from the broker that one queue is to be consumed, as if it had lost its leader."""

    deaf_for = b"jobs.default.urgent"

    async def _hold_request(self, piece: bytes) -> bytes:
        passed, rest = b"", await super()._hold_request(piece)
        while len(rest) >= 8 and not rest.startswith(b"AMQP"):
            size = int.from_bytes(rest[3:7], "big") + 8
            frame, rest = rest[:size], rest[size:]
            is_consume = frame[7:11] == bytes([0, 60, 0, 20])
            passed += b"" if is_consume and self.deaf_for in frame else frame
        return passed + rest


@pytest.mark.usefixtures("impatient")
async def test_a_lane_that_does_not_answer_keeps_no_other_lane_from_its_worker(
    jobs: Jobs, post: Post, start: Start, broker: Broker, amqp_url: str
) -> None:
    async with DeafProxy(amqp_url) as proxy:
        house = await start(url=proxy.url, concurrency=1)
        await reach(jobs, await post("other"), "completed")
        await reach(jobs, await post("busy", type="held"), "running")
        # Without a slot all lanes are given up, and with one they are asked for again.
        await is_consumed_in_the_end(broker, "jobs.default.medium", False)
        house.gate.set()
        await reach(jobs, await post("after"), "completed")

        proxy.deaf_for = b"nothing"
        proxy.cut()
        await is_consumed_in_the_end(broker, "jobs.default.urgent")
