"""A connection to RabbitMQ that comes back by itself.

aio-pika's robust connection waits a fixed five seconds without jitter, restores channels behind
their owner's back, and stops recovering after one refused declaration. Here a connection is made
anew with jittered backoff, and whoever holds a channel opens another one when it is gone.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator

import aiormq.abc
import aiormq.exceptions
import structlog
from aio_pika.abc import AbstractChannel
from yarl import URL

from taskflow.broker import topology
from taskflow.broker.deliveries import Listener
from taskflow.broker.outages import BROKER_ERRORS, is_refusal, library_cancellations, said
from taskflow.broker.tapped_connection import TappedConnection
from taskflow.broker.topology_check import LEFT_TO_SCHEDULER, complete_topology
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow.patience import pause_seconds

HEARTBEAT_SECONDS = 5
CONNECT_TIMEOUT_SECONDS = 4.0
"""For TCP and the handshake: a frozen node's kernel accepts for it, and another node may answer."""
ANSWER_TIMEOUT_SECONDS = 10.0
"""For what waits for all nodes of a cluster, of which one may be silent for a while."""
CANCEL_AGAIN_SECONDS = 0.2
LAST_ATTEMPT_SECONDS = 1.0
ALARM_LOOK_SECONDS = 0.2

log = structlog.get_logger(__name__)


def node_urls(amqp_url: str) -> list[str]:
    """The addresses that are named, with commas between them; a comma within one is `%2C`."""
    return [each.strip() for each in amqp_url.split(",")]


async def connect(url: URL, *, timeout_seconds: float | None = None) -> TappedConnection:
    """A connection to one node; raises what aio_pika.connect raises."""
    connection = TappedConnection(url)
    try:
        await connection.connect(timeout=timeout_seconds)
    except BaseException:
        # Else it would want to be closed as it is collected, in a thread that may have no loop.
        await connection.close()
        raise
    return connection


class Broker:
    """One connection for one purpose: an alarm that blocks publishers must not block consumers."""

    def __init__(self, url: str, *, name: str) -> None:
        """`url` may name several nodes of a cluster, with commas between them."""
        urls = [
            URL(each).update_query(heartbeat=HEARTBEAT_SECONDS, name=name)
            for each in node_urls(url)
        ]
        # Each process begins with another one, so that a cluster's nodes have a share each.
        self._urls = itertools.cycle(random.sample(urls, len(urls)))
        self._url = next(self._urls)
        self._name = name
        self._connection: TappedConnection | None = None
        self._up = asyncio.Event()
        self._in_alarm = False
        self._loss = ""
        self._supervisor: asyncio.Task[None] | None = None
        self._attempt: asyncio.Task[None] | None = None
        self.may_declare = True
        """Whether our user may declare what is missing; else the schedulers' does. Known when we
        are connected."""
        self.last_error: str | None = None
        """Why the last try to connect failed; None once one has succeeded."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now, as far as this side can tell."""
        return self._up.is_set()

    @property
    def in_alarm(self) -> bool:
        """Whether the broker has said that it takes no messages from this connection for now."""
        return self._in_alarm

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        await self._up.wait()

    def start(self) -> None:
        """Begin to connect, without waiting for it: services start without the broker."""
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._keep_connected(), name="broker")

    async def close(self) -> None:
        """Close for good; a second call does nothing."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        if self._attempt is not None:
            # A connection that opens while its attempt is cancelled would be nobody's to close.
            await asyncio.wait([self._attempt], timeout=LAST_ATTEMPT_SECONDS)
        # aiormq swallows a cancellation that comes while it connects, so one may not be enough.
        while not supervisor.done():
            supervisor.cancel()
            await asyncio.wait([supervisor], timeout=CANCEL_AGAIN_SECONDS)
        await asyncio.gather(
            supervisor, *([self._attempt] if self._attempt else []), return_exceptions=True
        )
        self._up.clear()
        if self._connection is not None:
            with contextlib.suppress(*BROKER_ERRORS):
                await asyncio.wait_for(self._connection.close(), HEARTBEAT_SECONDS)

    async def channel(self, *, publisher_confirms: bool = False) -> AbstractChannel:
        """A new channel; with confirms, an unroutable message raises.

        Raises:
            ServiceUnavailable: there is no connection.
        """
        connection = self._connection
        if connection is None or not self.connected:
            raise ServiceUnavailable("RabbitMQ", "there is no connection")
        try:
            channel = connection.channel(
                publisher_confirms=publisher_confirms, on_return_raises=publisher_confirms
            )
            with library_cancellations():
                await asyncio.wait_for(channel.initialize(), ANSWER_TIMEOUT_SECONDS)
        except BROKER_ERRORS as error:
            raise ServiceUnavailable("RabbitMQ", said(error)) from error
        return channel

    def listen(self, channel: aiormq.abc.AbstractChannel, listener: Listener) -> None:
        """Hand what is delivered on a channel to `listener`, past aiormq, as long as it lives.

        Raises:
            ServiceUnavailable: its connection is gone.
        """
        connection = self._connection
        transport = None if connection is None else connection.transport
        is_its_own = transport is not None and transport.connection is channel.connection
        if connection is None or not is_its_own:
            raise ServiceUnavailable("RabbitMQ", "the channel's connection is gone")
        connection.tap.listen(channel.number, listener)

    @contextlib.asynccontextmanager
    async def short_channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel for one declaration or look: what is refused there closes nothing else."""
        channel = await self.channel()
        try:
            yield channel
        finally:
            with contextlib.suppress(*BROKER_ERRORS):
                await asyncio.wait_for(channel.close(), ANSWER_TIMEOUT_SECONDS)

    async def declare_topology(self) -> None:
        """Declare all that doesn't depend on a queue's name, in case it was deleted meanwhile.

        Raises:
            ServiceUnavailable: there is no connection, or the broker refuses a declaration.
        """
        if not self.may_declare:
            raise ServiceUnavailable("RabbitMQ", LEFT_TO_SCHEDULER)
        async with self.short_channel() as channel:
            try:
                await asyncio.wait_for(topology.declare(channel), ANSWER_TIMEOUT_SECONDS)
            except BROKER_ERRORS as error:
                raise ServiceUnavailable("RabbitMQ", said(error)) from error

    async def ensure_lane(self, lane: Lane) -> None:
        """Declare a lane that has no queue. One that only lacks its binding is not found.

        Where we may not, a scheduler declares it: it does so for each worker's lanes.

        Raises:
            ServiceUnavailable: there is no connection.
            ChannelNotFoundEntity: it has no queue yet, and we may not declare it.
        """
        try:
            async with self.short_channel() as channel:
                await channel.get_queue(topology.lane_queue(lane))
        except aiormq.exceptions.ChannelNotFoundEntity:
            if not self.may_declare:
                raise
            async with self.short_channel() as channel:
                await topology.declare_lane(channel, lane)

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            lost = asyncio.Event()
            try:
                self._attempt = asyncio.create_task(self._connect(lost), name="broker-attempt")
                with library_cancellations():
                    await self._attempt
            except Exception as error:  # noqa: BLE001 - whatever it was, without a connection we end
                failures += 1
                self._report(error, failures)
                self._url = next(self._urls)
                await asyncio.sleep(pause_seconds(failures))
                continue
            failures = 0
            self.last_error = None
            self._up.set()
            log.info("broker_connected", connection=self._name)
            await self._watch_alarms(lost)
            self._up.clear()
            log.warning(
                "broker_connection_lost",
                connection=self._name,
                address=self._address,
                error=self._loss,
            )
            self._url = next(self._urls)
            # A broker that hangs up on everybody is not to be stormed by everybody at once.
            await asyncio.sleep(pause_seconds(1))

    async def _watch_alarms(self, lost: asyncio.Event) -> None:
        """Keep `in_alarm` true to what the broker says, until the connection is lost."""
        ended = asyncio.create_task(lost.wait(), name="broker-lost")
        try:
            while not lost.is_set():
                open_again = asyncio.create_task(self._wait_out_alarm(), name="broker-alarm")
                await asyncio.wait({ended, open_again}, timeout=ALARM_LOOK_SECONDS)
                if not (open_again.done() or lost.is_set()):
                    self._in_alarm = True
                    log.warning("broker_in_alarm", connection=self._name)
                    await asyncio.wait({ended, open_again}, return_when=asyncio.FIRST_COMPLETED)
                    self._in_alarm = False
                    log.info("broker_alarm_over", connection=self._name)
                open_again.cancel()
                await asyncio.gather(open_again, return_exceptions=True)
                await asyncio.wait({ended}, timeout=ALARM_LOOK_SECONDS)
        finally:
            self._in_alarm = False
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def _wait_out_alarm(self) -> None:
        """Return when the broker takes messages, at once if it does now."""
        if self._connection is not None and self._connection.transport is not None:
            await self._connection.transport.connection.ready()

    async def _connect(self, lost: asyncio.Event) -> None:
        connection = await connect(self._url, timeout_seconds=CONNECT_TIMEOUT_SECONDS)
        self._connection = connection

        def note_loss(_: object, error: BaseException | None) -> None:
            self._loss = said(error)
            lost.set()

        connection.close_callbacks.add(note_loss)
        try:
            self.may_declare = await asyncio.wait_for(
                complete_topology(connection), ANSWER_TIMEOUT_SECONDS
            )
        except BaseException:
            with contextlib.suppress(*BROKER_ERRORS):
                await asyncio.wait_for(connection.close(), CONNECT_TIMEOUT_SECONDS)
            raise

    @property
    def _address(self) -> str:
        return f"{self._url.host}:{self._url.port}{self._url.path}"

    def _report(self, error: BaseException, failures: int) -> None:
        self.last_error = said(error)
        # Say it when it begins, then at every tenth try: an outage must not fill a disk.
        if failures % 10 == 1:
            log.warning(
                "broker_unreachable",
                connection=self._name,
                address=self._address,
                error=self.last_error,
                hint="see TASKFLOW_AMQP_URL" if is_refusal(error) else None,
                failures=failures,
                exc_info=None if isinstance(error, BROKER_ERRORS) else error,
            )
