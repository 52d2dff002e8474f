"""A connection to RabbitMQ that comes back by itself.

aio-pika's robust connection waits a fixed five seconds without jitter, restores channels behind
their owner's back, and stops recovering after one refused declaration. Here a connection is made
anew with jittered backoff, and whoever holds a channel opens another one when it is gone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aio_pika
import aiormq.exceptions
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from yarl import URL

from taskflow.broker import topology
from taskflow.errors import ServiceUnavailable
from taskflow.patience import pause_seconds

HEARTBEAT_SECONDS = 5
CONNECT_TIMEOUT_SECONDS = 10.0
CANCEL_AGAIN_SECONDS = 0.2
LAST_ATTEMPT_SECONDS = 1.0

BROKER_ERRORS: tuple[type[BaseException], ...] = (
    aiormq.exceptions.AMQPError,
    # aiormq's ChannelInvalidStateError is one, and uvloop's word for a transport that was closed.
    RuntimeError,
    OSError,
    TimeoutError,
)
"""What a broker that is away, refuses or is slow makes aio-pika raise."""

log = structlog.get_logger(__name__)


class Broker:
    """One connection for one purpose: an alarm that blocks publishers must not block consumers."""

    def __init__(self, url: str, *, name: str) -> None:
        self._url = URL(url).update_query(heartbeat=HEARTBEAT_SECONDS, name=name)
        self._name = name
        self._connection: AbstractConnection | None = None
        self._up = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._attempt: asyncio.Task[None] | None = None
        self.last_error: str | None = None
        """Why the last try to connect failed; None once one has succeeded."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now, as far as this side can tell."""
        return self._up.is_set()

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
            await asyncio.wait_for(channel.initialize(), CONNECT_TIMEOUT_SECONDS)
        except BROKER_ERRORS as error:
            raise ServiceUnavailable("RabbitMQ", _said(error)) from error
        return channel

    @contextlib.asynccontextmanager
    async def short_channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel for one declaration or look: what is refused there closes nothing else."""
        channel = await self.channel()
        try:
            yield channel
        finally:
            with contextlib.suppress(*BROKER_ERRORS):
                await asyncio.wait_for(channel.close(), CONNECT_TIMEOUT_SECONDS)

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            lost = asyncio.Event()
            try:
                self._attempt = asyncio.create_task(self._connect(lost), name="broker-attempt")
                await self._attempt
            except Exception as error:  # noqa: BLE001 - whatever it was, without a connection we end
                failures += 1
                self._report(error, failures)
                await asyncio.sleep(pause_seconds(failures))
                continue
            failures = 0
            self.last_error = None
            self._up.set()
            log.info("broker_connected", connection=self._name)
            await lost.wait()
            self._up.clear()
            log.warning("broker_connection_lost", connection=self._name)
            # A broker that hangs up on everybody is not to be stormed by everybody at once.
            await asyncio.sleep(pause_seconds(1))

    async def _connect(self, lost: asyncio.Event) -> None:
        connection = await aio_pika.connect(self._url, timeout=CONNECT_TIMEOUT_SECONDS)
        self._connection = connection
        connection.close_callbacks.add(lambda *_: lost.set())
        try:
            channel = connection.channel(publisher_confirms=False)
            await asyncio.wait_for(self._declare(channel), CONNECT_TIMEOUT_SECONDS)
        except BaseException:
            with contextlib.suppress(*BROKER_ERRORS):
                await asyncio.wait_for(connection.close(), CONNECT_TIMEOUT_SECONDS)
            raise

    async def _declare(self, channel: AbstractChannel) -> None:
        await channel.initialize()
        await topology.declare(channel)
        await channel.close()

    def _report(self, error: BaseException, failures: int) -> None:
        self.last_error = _said(error)
        # Say it when it begins, then at every tenth try: an outage must not fill a disk.
        if failures % 10 == 1:
            log.warning(
                "broker_unreachable",
                connection=self._name,
                address=f"{self._url.host}:{self._url.port}{self._url.path}",
                error=self.last_error,
                hint="see TASKFLOW_AMQP_URL" if _is_refusal(error) else None,
                failures=failures,
                exc_info=None if isinstance(error, BROKER_ERRORS) else error,
            )


def _is_refusal(error: BaseException) -> bool:
    """Whether the broker is there and says no: a wrong password, a missing virtual host."""
    return isinstance(
        error,
        aiormq.exceptions.AuthenticationError
        | aiormq.exceptions.ProbableAuthenticationError
        | aiormq.exceptions.ConnectionNotAllowed
        | aiormq.exceptions.ChannelAccessRefused
        | aiormq.exceptions.InvalidFrameError,
    )


def _said(error: BaseException) -> str:
    if isinstance(error, aiormq.exceptions.InvalidFrameError):
        # What aiormq makes of a Close in answer to its Open.
        return f"the virtual host is missing, full or not open to this user ({error})"
    return str(error) or type(error).__name__
