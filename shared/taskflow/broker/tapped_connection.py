"""aio-pika's connection, with a hand on what it reads and writes."""

import asyncio
import itertools
import struct
from collections.abc import Iterable
from typing import Any, SupportsIndex

import aio_pika
from aio_pika.abc import AbstractChannel, ConnectionParameter
from aiormq.connection import DEFAULT_PORTS, TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from taskflow.broker.deliveries import (
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    DeliveryTap,
    method_frame,
    method_of,
)

_MAX_CHANNEL = 65_535
_CHANNEL_OPEN = struct.pack(">HH", 20, 10)


class ClosedChannels:
    """The channels that either side has closed, on which nothing more may be written.

    The broker hangs up on who does, and aiormq sends what waits for its turn on a channel even so
    (https://www.rabbitmq.com/docs/channels#error-handling).
    """

    def __init__(self) -> None:
        self._closed: set[int] = set()

    def add(self, channel: int) -> None:
        """The broker has closed it."""
        self._closed.add(channel)

    def may_pass(self, frames: bytes) -> bool:
        """Whether frames, all of one channel, may be written; note it if they open or close it."""
        channel, method = int.from_bytes(frames[1:3]), method_of(frames)
        if method == _CHANNEL_OPEN:
            self._closed.discard(channel)
        elif channel in self._closed or method == CHANNEL_CLOSE_OK:
            # A close of the broker's has been answered as it was read.
            return False
        elif method == CHANNEL_CLOSE:
            self._closed.add(channel)
        return True


class TappedConnection(aio_pika.Connection):
    """A connection whose deliveries can be listened to by `tap`, and which outlives its channels.

    No channel has the number of one that has just ended: aiormq gives it away as it reads of the
    end, before it has answered, and the broker hangs up on who opens a channel in between.
    """

    PARAMETERS = (
        *aio_pika.Connection.PARAMETERS,
        ConnectionParameter("transport_factory", parser=lambda factory: factory, is_kwarg=True),
    )

    def __init__(self, url: URL) -> None:
        self.tap = DeliveryTap()
        super().__init__(url, transport_factory=_TappedTransport(self.tap))
        self._numbers = itertools.count()

    def channel(
        self,
        channel_number: int | None = None,
        publisher_confirms: bool = True,
        on_return_raises: bool = False,
    ) -> AbstractChannel:
        """As aio-pika's, with a number of our choice where none is given."""
        return super().channel(
            channel_number or self._next_number(), publisher_confirms, on_return_raises
        )

    def _next_number(self) -> int | None:
        if self.transport is None:
            return None
        connection = self.transport.connection
        highest = connection.connection_tune.channel_max or _MAX_CHANNEL
        tried = (each % highest + 1 for each in itertools.islice(self._numbers, highest))
        return next((number for number in tried if number not in connection.channels), None)


class _TappedTransport(TransportFactory):
    """As aiormq's own, but for the reader and the writer."""

    def __init__(self, tap: DeliveryTap) -> None:
        self._tap = tap

    async def create(
        self, url: URL, **settings: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        contexts = settings.pop("ssl_context_provider")
        context = await contexts.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = _TappedReader(self._tap)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol,
                url.host or "localhost",
                url.port or DEFAULT_PORTS[url.scheme],
                ssl=context,
                **settings,
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        writer = _GuardedWriter(transport, protocol, reader, loop)
        self._tap.on_close = writer.answer_close
        return reader, writer


class _TappedReader(asyncio.StreamReader):
    def __init__(self, tap: DeliveryTap) -> None:
        super().__init__()
        self._tap = tap

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        super().feed_data(self._tap.take(bytes(data)))


class _GuardedWriter(asyncio.StreamWriter):
    """Writes no more on a channel that was closed; its users learn of the end from aiormq.

    It answers the broker's close itself: aiormq doesn't where both sides close at once, or where
    more are closed than its queue has room for, and an unanswered one keeps its number taken.
    """

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._closed = ClosedChannels()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        frames = bytes(data)
        if self._closed.may_pass(frames):
            super().write(frames)

    def answer_close(self, channel: int) -> None:
        self._closed.add(channel)
        if not self.is_closing():
            super().write(method_frame(channel, CHANNEL_CLOSE_OK))
