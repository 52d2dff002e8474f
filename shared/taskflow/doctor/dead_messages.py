"""What lies in `jobs.dead`, looked at without taking it away."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiormq.abc
from aio_pika.abc import AbstractChannel

from taskflow.broker import topology
from taskflow.broker.message import REASON_HEADER, UndecodableMessage, decode
from taskflow.broker.outages import BROKER_ERRORS
from taskflow.errors import ServiceUnavailable

TIMEOUT_SECONDS = 10.0
"""A quorum queue that has lost its majority never answers."""


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message among the dead.

    `job_id` is None when it is no pointer. `reason` is what TaskFlow wrote when it put it there;
    None: RabbitMQ moved it itself, when it had been delivered too often.
    """

    job_id: UUID | None
    reason: str | None


async def peek(channel: AbstractChannel, *, limit: int) -> list[DeadMessage]:
    """Up to `limit` messages from the head of the queue; all of them stay.

    Each look counts as a delivery, of which the queue allows `topology.DELIVERY_LIMIT`.

    Raises:
        ServiceUnavailable: the broker didn't say.
    """
    messages: list[DeadMessage] = []
    last_tag = None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            underlay = await channel.get_underlay_channel()
            while len(messages) < limit:
                found = await underlay.basic_get(topology.DEAD_QUEUE)
                if not isinstance(found.delivery, aiormq.spec.Basic.GetOk):
                    break
                last_tag = found.delivery.delivery_tag
                messages.append(_read(found))
            if last_tag is not None:
                await underlay.basic_nack(last_tag, multiple=True, requeue=True)
    except BROKER_ERRORS as error:
        raise ServiceUnavailable("RabbitMQ", str(error) or type(error).__name__) from error
    return messages


def _read(message: aiormq.abc.DeliveredMessage) -> DeadMessage:
    headers: Mapping[str, Any] = message.header.properties.headers or {}
    reason = headers.get(REASON_HEADER)
    try:
        job_id = decode(message.body, headers).job_id
    except UndecodableMessage:
        job_id = None
    return DeadMessage(job_id, None if reason is None else str(reason))
