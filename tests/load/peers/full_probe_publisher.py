"""Messages of one size, written to the broker as one piece with a confirm for each."""

import asyncio
import struct
from collections.abc import Sequence

import aiormq
import pamqp.frame
from aiormq.abc import AbstractChannel, ChannelFrame
from aiormq.channel import Channel
from pamqp import commands
from pamqp.header import ContentHeader

from .settings import QUEUE

_BODY_BYTES = 16
_PERSISTENT = 2
_BODY_FRAME = struct.Struct(">BHI")
_BODY_TYPE, _FRAME_END = 3, b"\xce"


async def declare(channel: AbstractChannel) -> None:
    """The quorum queue."""
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})


class Publisher:
    """One channel; all that is in front of a message's body is the same for each."""

    def __init__(self, channel: AbstractChannel) -> None:
        assert isinstance(channel, Channel)
        self._channel = channel
        number = channel.number
        publish = commands.Basic.Publish(exchange="", routing_key=QUEUE)
        properties = commands.Basic.Properties(delivery_mode=_PERSISTENT)
        header = ContentHeader(properties=properties, body_size=_BODY_BYTES)
        self._prefix = (
            pamqp.frame.marshal(publish, number)
            + pamqp.frame.marshal(header, number)
            + _BODY_FRAME.pack(_BODY_TYPE, number, _BODY_BYTES)
        )

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """Send them and wait until the broker has confirmed each.

        Raises:
            aiormq.exceptions.DeliveryError: it refused one.
        """
        channel = self._channel
        async with channel.lock:
            confirms = [channel.create_future() for _ in bodies]
            for confirm in confirms:
                channel.delivery_tag += 1
                channel.confirmations[channel.delivery_tag] = confirm
            pieces = [self._prefix + body + _FRAME_END for body in bodies]
            await channel.write_queue.put(ChannelFrame(b"".join(pieces), should_close=False))
        for confirmed in await asyncio.gather(*confirms):
            assert isinstance(confirmed, aiormq.spec.Basic.Ack)
