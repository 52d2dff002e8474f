"""What the doctor says of RabbitMQ, which it only looks at."""

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
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority


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
