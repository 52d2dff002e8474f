"""What the doctor says of RabbitMQ, which it only looks at."""

import asyncio
import gc
import logging
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import aio_pika
import pytest
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.message import encode
from taskflow.doctor.broker import BrokerReport, examine_broker, open_broker
from taskflow.doctor.dead_messages import DeadMessage, peek
from taskflow.doctor.diagnosis import Diagnosis, Level
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow_testing.tcp_proxy import TcpProxy


def by_subject(diagnoses: Sequence[Diagnosis]) -> dict[str, Diagnosis]:
    return {diagnosis.subject: diagnosis for diagnosis in diagnoses}


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[aio_pika.abc.AbstractConnection]:
    """RabbitMQ with the topology, and nothing among the dead."""
    async with open_broker(amqp_url) as connection:
        channel = await connection.channel()
        await topology.declare(channel)
        await (await channel.get_queue(topology.DEAD_QUEUE)).purge()
        yield connection
        channel = await connection.channel()
        await topology.declare(channel)
        await (await channel.get_queue(topology.DEAD_QUEUE)).purge()


async def errors_of_one_that_is_away() -> list[ServiceUnavailable]:
    try:
        async with open_broker("amqp://127.0.0.1:1/"):
            return []
    except ServiceUnavailable as error:
        return [error]


async def test_nobody_is_to_close_a_connection_that_was_never_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Its log would hold the error, and pytest the log.
    caplog.set_level(logging.CRITICAL, logger="aiormq")
    errors = await errors_of_one_that_is_away()
    assert len(errors) == 1
    errors.clear()
    # What its traceback held may be collected in any thread, and in this one is no loop.
    await asyncio.to_thread(gc.collect)


async def bury(connection: aio_pika.abc.AbstractConnection, message: aio_pika.Message) -> None:
    channel = await connection.channel()
    exchange = await channel.get_exchange(topology.DEAD_EXCHANGE)
    await exchange.publish(message, "default.medium")


@pytest.mark.broker
async def test_a_broker_that_is_well(broker: aio_pika.abc.AbstractConnection) -> None:
    report = await examine_broker(broker)
    assert [diagnosis.level for diagnosis in report.diagnoses] == [Level.OK] * 4
    assert report.dead_messages == []


@pytest.mark.broker
async def test_what_is_missing_is_named_and_not_declared(
    broker: aio_pika.abc.AbstractConnection,
) -> None:
    channel = await broker.channel()
    await channel.queue_delete(topology.retry_exchange(5))
    await channel.exchange_delete(topology.EVENTS_EXCHANGE)
    for _ in range(2):
        diagnosis = by_subject((await examine_broker(broker)).diagnoses)["topology"]
        assert diagnosis.level is Level.FAIL
        assert list(diagnosis.details) == ["exchange events", "queue jobs.retry.5"]


@pytest.mark.broker
async def test_dead_messages_are_looked_at_and_stay(
    broker: aio_pika.abc.AbstractConnection,
) -> None:
    pointer = Pointer(uuid7(), Lane("default", Priority.MEDIUM), "echo", datetime.now(UTC))
    buried = encode(pointer)
    buried.headers["reason"] = "failed"
    await bury(broker, buried)
    await bury(broker, aio_pika.Message(b"what?", headers={"reason": "the body is not JSON"}))
    await bury(broker, encode(pointer))

    for _ in range(2):
        report: BrokerReport = await examine_broker(broker)
        dead = sorted(report.dead_messages or [], key=str)
        assert dead == sorted(
            [
                DeadMessage(pointer.job_id, "failed"),
                DeadMessage(None, "the body is not JSON"),
                DeadMessage(pointer.job_id, None),
            ],
            key=str,
        )
        diagnosis = by_subject(report.diagnoses)["dead"]
        assert diagnosis.level is Level.WARN
        assert list(diagnosis.details) == ["the body is not JSON"]
    assert len(await peek(await broker.channel(), limit=2)) == 2


# Class 60, method 40, right behind a frame's type (a method), channel and size.
PUBLISH = re.compile(rb"\x01.{2}.{4}\x00\x3c\x00\x28", re.DOTALL)


class Alarm(TcpProxy):
    """A broker in alarm reads nothing more from a connection that has published."""

    async def _hold_request(self, piece: bytes) -> bytes:
        if PUBLISH.search(piece):
            self.freeze()
        return await super()._hold_request(piece)


async def test_a_broker_in_alarm_is_not_called_a_queue_without_a_majority(
    amqp_url: str, broker: aio_pika.abc.AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow.doctor.broker.ANSWER_SECONDS", 0.5)
    async with Alarm(amqp_url) as proxy, open_broker(proxy.url) as connection:
        report = await examine_broker(connection)
    levels = {subject: line.level for subject, line in by_subject(report.diagnoses).items()}
    well = dict.fromkeys(("topology", "unrouted", "dead"), Level.OK)
    assert levels == {"RabbitMQ": Level.FAIL} | well
    assert report.dead_messages == []


async def test_a_broker_that_freezes_while_it_is_looked_at_is_given_up(
    amqp_url: str, broker: aio_pika.abc.AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("ANSWER_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(f"taskflow.doctor.broker.{limit}", 0.3)

    class Freezing(Alarm):
        async def _hold_request(self, piece: bytes) -> bytes:
            # The end of a channel: nothing else that is asked of a broker has its answer in time.
            if piece[7:11] == b"\x00\x14\x00\x28":
                self.freeze()
            return await super()._hold_request(piece)

    async with (
        asyncio.timeout(10),
        Freezing(amqp_url) as proxy,
        open_broker(proxy.url) as connection,
    ):
        report = await examine_broker(connection)
    assert {line.level for line in report.diagnoses} == {Level.FAIL}
