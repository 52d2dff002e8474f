"""Every name and argument in the broker, and the one step that declares them.

Arguments of a queue can't be changed later, so what may change belongs in a policy. Each choice
here holds on RabbitMQ 3.10 and on 4.x; the reasons are in docs/decisions/0003-broker.md.
"""

from collections.abc import Mapping
from uuid import UUID

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel
from pamqp.common import FieldTable

from taskflow.jobs.backoff import LADDER_SECONDS
from taskflow.jobs.lanes import Lane

JOBS_EXCHANGE = "jobs"
DEAD_EXCHANGE = "jobs.dead"
DEAD_QUEUE = "jobs.dead"
UNROUTED_EXCHANGE = "jobs.unrouted"
UNROUTED_QUEUE = "jobs.unrouted"
CONTROL_EXCHANGE = "control"
EVENTS_EXCHANGE = "events"

# -1 would discard on the first requeue (3.10); 20, the default of 4.x, drops good pointers.
DELIVERY_LIMIT = 10_000
DEAD_QUEUE_MAX_MESSAGES = 100_000
UNROUTED_QUEUE_MAX_MESSAGES = 1_000_000
RETRY_QUEUE_MAX_MESSAGES = 1_000_000


def lane_queue(lane: Lane) -> str:
    """The broker's queue of a lane."""
    return f"jobs.{lane.key}"


def retry_exchange(rung_seconds: int) -> str:
    """The fanout exchange before a rung: it keeps the routing key for the way back."""
    return f"jobs.retry.{rung_seconds}"


def control_queue(worker_id: UUID) -> str:
    """A worker's own queue for cancel and pause."""
    return f"control.{worker_id}"


async def declare_what_is_there(channel: AbstractChannel) -> None:
    """Declare one exchange as it is, which changes nothing and asks for the right to declare.

    Raises:
        ChannelAccessRefused: we may not; the channel is closed.
    """
    await channel.declare_exchange(CONTROL_EXCHANGE, ExchangeType.TOPIC, durable=True)


def _work_arguments() -> FieldTable:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD_EXCHANGE,
    }


def _retry_arguments(rung_seconds: int) -> FieldTable:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-message-ttl": rung_seconds * 1000,
        "x-dead-letter-exchange": JOBS_EXCHANGE,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-max-length": RETRY_QUEUE_MAX_MESSAGES,
    }


EXCHANGES: Mapping[str, ExchangeType] = {
    # First what services with few rights use: see `look`.
    JOBS_EXCHANGE: ExchangeType.TOPIC,
    DEAD_EXCHANGE: ExchangeType.TOPIC,
    **{retry_exchange(rung): ExchangeType.FANOUT for rung in LADDER_SECONDS},
    UNROUTED_EXCHANGE: ExchangeType.FANOUT,
    CONTROL_EXCHANGE: ExchangeType.TOPIC,
    EVENTS_EXCHANGE: ExchangeType.TOPIC,
}
QUEUES = (UNROUTED_QUEUE, DEAD_QUEUE, *(retry_exchange(rung) for rung in LADDER_SECONDS))
"""What `declare` declares."""


async def look(channel: AbstractChannel) -> None:
    """See that all that `declare` declares is there, but for bindings.

    RabbitMQ 4.3 shows nobody what they have no right to, 3.10 whatever is asked for.

    Raises:
        ChannelNotFoundEntity: something is missing; the channel is closed.
        ChannelAccessRefused: what we may use is there, and the rest not ours to see; likewise.
    """
    for name in EXCHANGES:
        await channel.get_exchange(name)
    for name in QUEUES:
        await channel.get_queue(name)


async def declare(channel: AbstractChannel) -> None:
    """Declare all that doesn't depend on a queue's name; the same again changes nothing."""
    unrouted = await channel.declare_exchange(UNROUTED_EXCHANGE, ExchangeType.FANOUT, durable=True)
    dead = await channel.declare_exchange(DEAD_EXCHANGE, ExchangeType.TOPIC, durable=True)
    await channel.declare_exchange(
        JOBS_EXCHANGE,
        ExchangeType.TOPIC,
        durable=True,
        arguments={"alternate-exchange": UNROUTED_EXCHANGE},
    )
    for name in (CONTROL_EXCHANGE, EVENTS_EXCHANGE):
        await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)

    unrouted_queue = await channel.declare_queue(
        UNROUTED_QUEUE,
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-max-length": UNROUTED_QUEUE_MAX_MESSAGES,
            "x-overflow": "drop-head",
        },
    )
    await unrouted_queue.bind(unrouted)
    dead_queue = await channel.declare_queue(
        DEAD_QUEUE,
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-max-length": DEAD_QUEUE_MAX_MESSAGES,
            "x-overflow": "drop-head",
        },
    )
    await dead_queue.bind(dead, routing_key="#")

    for rung in LADDER_SECONDS:
        name = retry_exchange(rung)
        exchange = await channel.declare_exchange(name, ExchangeType.FANOUT, durable=True)
        queue = await channel.declare_queue(name, durable=True, arguments=_retry_arguments(rung))
        await queue.bind(exchange)


async def declare_lane(channel: AbstractChannel, lane: Lane) -> None:
    """Declare a lane's queue and bind it."""
    queue = await channel.declare_queue(lane_queue(lane), durable=True, arguments=_work_arguments())
    await queue.bind(JOBS_EXCHANGE, routing_key=lane.key)
