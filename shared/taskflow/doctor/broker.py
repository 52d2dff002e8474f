"""RabbitMQ as the doctor sees it: looked at, never mended, since schedulers declare."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiormq.exceptions
from aio_pika import ExchangeType, Message
from aio_pika.abc import AbstractConnection
from yarl import URL

from taskflow.broker import topology
from taskflow.broker.connection import connect, node_urls
from taskflow.broker.outages import BROKER_ERRORS
from taskflow.doctor.dead_messages import DeadMessage, peek
from taskflow.doctor.diagnosis import Diagnosis, fail, ok, unseen, warn
from taskflow.doctor.servers import said
from taskflow.errors import ServiceUnavailable

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0
"""A quorum queue that has lost its majority never answers; an alarm keeps back confirms."""
LOOK_SECONDS = 20.0
"""For all queues together: of a broker that freezes, not even the end of a channel is heard."""

DEAD_MESSAGES_SEEN = 200
UNROUTED_MANY = 100

_UNREACHABLE: tuple[type[BaseException], ...] = (*BROKER_ERRORS, ServiceUnavailable)


@contextlib.asynccontextmanager
async def open_broker(amqp_url: str) -> AsyncIterator[AbstractConnection]:
    """A plain connection, to the first that answers where `amqp_url` names several nodes.

    Raises:
        ServiceUnavailable: RabbitMQ doesn't answer or refuses us.
    """
    connection = await _connect(node_urls(amqp_url))
    try:
        yield connection
    finally:
        with contextlib.suppress(*BROKER_ERRORS):
            await asyncio.wait_for(connection.close(), ANSWER_SECONDS)


async def _connect(urls: Sequence[str]) -> AbstractConnection:
    first, *others = urls
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await connect(URL(first))
    except BROKER_ERRORS as error:
        if others:
            return await _connect(others)
        raise ServiceUnavailable("RabbitMQ", said(error)) from error


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """What was seen; `dead_messages` is None where they could not be looked at."""

    diagnoses: list[Diagnosis]
    dead_messages: list[DeadMessage] | None = None


async def examine_broker(connection: AbstractConnection) -> BrokerReport:
    """Whether it takes messages, has the topology, and what lies in its corners."""
    report = await _look(connection)
    # Last: from a connection that has published, a broker in alarm reads nothing more.
    accepting = await _check_accepting(connection)
    return BrokerReport([accepting, *report.diagnoses], report.dead_messages)


async def _look(connection: AbstractConnection) -> BrokerReport:
    missing: list[str] = []
    depths: dict[str, int | None] = {}
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            for name, kind in topology.EXCHANGES.items():
                if not await _has_exchange(connection, name, kind):
                    missing.append(f"exchange {name}")
            for name in topology.QUEUES:
                depths[name] = await _depth(connection, name)
    except aiormq.exceptions.ChannelAccessRefused as error:
        return BrokerReport([_refused("topology", error)])
    except BROKER_ERRORS as error:
        return BrokerReport([_silent(error)])
    missing += [f"queue {name}" for name, depth in depths.items() if depth is None]
    diagnoses = [_topology(missing), _unrouted(depths[topology.UNROUTED_QUEUE])]
    if depths[topology.DEAD_QUEUE] is None:
        return BrokerReport(diagnoses)
    return await _with_dead_messages(connection, diagnoses, depths[topology.DEAD_QUEUE] or 0)


async def _check_accepting(connection: AbstractConnection) -> Diagnosis:
    """Send a message to a queue of our own: an alarm lets one connect, but takes nothing."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True, auto_delete=True)
            await channel.default_exchange.publish(Message(b"doctor"), queue.name)
            await channel.close()
    except aiormq.exceptions.ChannelAccessRefused as error:
        return _refused("RabbitMQ", error)
    except BROKER_ERRORS as error:
        return fail(
            "RabbitMQ",
            f"answers, but confirms no message ({said(error)})",
            "Look for a memory or disk alarm (`rabbitmq-diagnostics alarms`) and for a lost"
            " majority of the cluster; submissions are accepted meanwhile.",
        )
    return ok("RabbitMQ", "answers and takes messages")


def _refused(subject: str, error: BaseException) -> Diagnosis:
    return unseen(
        subject,
        f"this user may not try it: {said(error)}",
        "Give the doctor the TASKFLOW_AMQP_URL of who owns the virtual host, not a service's own.",
    )


def _silent(error: BaseException) -> Diagnosis:
    return fail(
        "topology",
        f"a queue does not answer: {said(error)}",
        "Look at the cluster (`rabbitmq-queues check_if_node_is_quorum_critical`).",
    )


def _topology(missing: list[str]) -> Diagnosis:
    exchanges, queues = len(topology.EXCHANGES), len(topology.QUEUES)
    if missing:
        return fail(
            "topology",
            f"{len(missing)} of {exchanges + queues} exchanges and queues are missing",
            "Run `make migrate`; a scheduler that connects declares them as well.",
            missing,
        )
    return ok(
        "topology",
        f"all {exchanges} exchanges and {queues} queues are there",
    )


def _unrouted(depth: int | None) -> Diagnosis:
    if depth is not None and depth > UNROUTED_MANY:
        return warn(
            "unrouted",
            f"{depth} messages found no lane and were not given back to the database",
            "Start a scheduler, which drains them; its log says unrouted_returned.",
        )
    return ok("unrouted", f"{depth or 0} messages")


async def _with_dead_messages(
    connection: AbstractConnection, diagnoses: list[Diagnosis], depth: int
) -> BrokerReport:
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            dead = await peek(channel, limit=DEAD_MESSAGES_SEEN)
            await channel.close()
    except _UNREACHABLE as error:
        refused = isinstance(error.__cause__, aiormq.exceptions.ChannelAccessRefused)
        return BrokerReport([*diagnoses, _refused("dead", error) if refused else _silent(error)])
    foreign = [message for message in dead if message.job_id is None]
    if foreign:
        diagnosis = warn(
            "dead",
            f"{depth} messages, of which {len(foreign)} among the first {len(dead)} are no"
            " pointers to jobs",
            "Find who publishes to TaskFlow's exchanges; what these messages say is lost on it.",
            sorted({message.reason or "no reason" for message in foreign}),
        )
    else:
        diagnosis = ok("dead", f"{depth} messages; the first {len(dead)} are pointers to jobs")
    return BrokerReport([*diagnoses, diagnosis], dead)


async def _has_exchange(connection: AbstractConnection, name: str, kind: ExchangeType) -> bool:
    # A channel each: the broker closes it along with the answer that there is none.
    channel = await asyncio.wait_for(connection.channel(), ANSWER_SECONDS)
    try:
        await channel.declare_exchange(name, kind, passive=True, timeout=ANSWER_SECONDS)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


async def _depth(connection: AbstractConnection, name: str) -> int | None:
    """How many messages are ready in a queue; None: there is no such queue."""
    channel = await asyncio.wait_for(connection.channel(), ANSWER_SECONDS)
    try:
        queue = await channel.declare_queue(name, passive=True, timeout=ANSWER_SECONDS)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return None
    await channel.close()
    return queue.declaration_result.message_count or 0
