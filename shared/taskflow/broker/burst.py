"""Many pointers for one queue, written to a channel as one piece, each with a confirm of its own.

aiormq's `basic_publish` takes the channel's lock, a turn of its writer and a drained buffer for
every message, which costs more than all that is sent. What it notes about a message is noted here
as well, so that its reader answers both alike: the confirm by delivery tag, the tag by message id
for a message that comes back (https://www.rabbitmq.com/docs/confirms#publisher-confirms).
"""

import asyncio
from collections.abc import Sequence
from typing import cast

import pamqp.frame
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from pamqp import commands

from taskflow.broker.outages import end_of, ends_explained
from taskflow.broker.pointer_frames import frames_of
from taskflow.jobs.pointers import Pointer


class Burst:
    """Messages on their way together. Sent once."""

    def __init__(self, pointers: Sequence[Pointer]) -> None:
        loop = asyncio.get_running_loop()
        self._pointers = pointers
        self._ids = [str(pointer.job_id) for pointer in pointers]
        self._confirms: list[asyncio.Future[object]] = [loop.create_future() for _ in pointers]

    async def publish(self, channel: Channel, *, exchange: str, routing_key: str) -> None:
        """Send all of them; return when each is confirmed, refused or come back.

        Raises:
            AMQPError, ChannelInvalidStateError: the channel is closed, or was meanwhile.
        """
        payload = self._marshal(channel.number, exchange, routing_key)
        with ends_explained(channel):
            first = await self._write(channel, payload)
        try:
            await self._wait(channel)
        finally:
            for confirm in self._confirms:
                confirm.cancel()
            self._forget_ids(channel, first)

    def errors(self, unanswered: Exception) -> list[Exception | None]:
        """For each pointer None where it is confirmed, else why not; in their order."""
        return [_error_of(confirm, unanswered) for confirm in self._confirms]

    async def _write(self, channel: Channel, payload: bytes) -> int:
        async with channel.lock:
            first = channel.delivery_tag + 1
            self._note(channel, first)
            try:
                await channel.write_queue.put(ChannelFrame(payload, should_close=False))
            except BaseException:
                # Nothing was written and the lock is ours: the tags are free again.
                self._take_back(channel, first)
                raise
        return first

    def _marshal(self, channel_number: int, exchange: str, routing_key: str) -> bytes:
        publish = pamqp.frame.marshal(
            commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True),
            channel_number,
        )
        return publish + publish.join(
            [frames_of(pointer, channel_number) for pointer in self._pointers]
        )

    def _note(self, channel: Channel, first: int) -> None:
        channel.delivery_tag += len(self._ids)
        channel.confirmations.update(enumerate(self._confirms, first))
        channel.message_id_delivery_tag.update(
            (message_id, tag) for tag, message_id in enumerate(self._ids, first)
        )

    def _take_back(self, channel: Channel, first: int) -> None:
        channel.delivery_tag = first - 1
        for tag, _ in enumerate(self._ids, first):
            channel.confirmations.pop(tag, None)
        self._forget_ids(channel, first)

    def _forget_ids(self, channel: Channel, first: int) -> None:
        """But not where a later message has the same id."""
        known = channel.message_id_delivery_tag
        for tag, message_id in enumerate(self._ids, first):
            if known.get(message_id) == tag:
                del known[message_id]

    async def _wait(self, channel: Channel) -> None:
        # It ends with the confirms, which are cancelled in the end. Cancelled itself, it would tell
        # the loop of an exception that nobody has looked at.
        answered = asyncio.gather(*self._confirms, return_exceptions=True)
        closing = channel.closing
        try:
            await asyncio.wait({answered, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise end_of(closing)
        finally:
            closing.cancel()


def _error_of(confirm: "asyncio.Future[object]", unanswered: Exception) -> Exception | None:
    if confirm.cancelled() or not confirm.done():
        return unanswered
    return cast("Exception | None", confirm.exception())
