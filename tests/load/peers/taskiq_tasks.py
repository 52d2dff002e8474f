"""Taskiq on RabbitMQ by aio-pika."""

import uuid

from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

from .awaiting import run
from .settings import AMQP_URL, QUEUE

_IN_HAND = 100

broker = AioPikaBroker(
    AMQP_URL, task_queues=[Queue(name=QUEUE, type=QueueType.QUORUM)], qos=_IN_HAND
)


@broker.task
async def echo(job_id: str) -> None:
    """Do a job; its message is acknowledged afterwards."""
    await run(uuid.UUID(job_id))
