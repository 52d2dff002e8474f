"""Dramatiq on RabbitMQ's quorum queues, with its usual middleware."""

import uuid
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from .blocking import run
from .settings import AMQP_URL, QUEUE


class QuorumBroker(RabbitmqBroker):
    """Its queues are quorum queues, for which it has no setting."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


# The message is on the broker's disk when `send` returns.
broker = QuorumBroker(url=AMQP_URL, confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def echo(job_id: str) -> None:
    """Do a job; its message is acknowledged afterwards."""
    run(uuid.UUID(job_id))
