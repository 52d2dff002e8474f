"""Celery on RabbitMQ's quorum queues: https://docs.celeryq.dev, "Using RabbitMQ", "Optimizing"."""

import uuid
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from .blocking import engine, run
from .settings import AMQP_URL, QUEUE

app = Celery("peer", broker=AMQP_URL)
app.conf.update(
    task_default_queue=QUEUE,
    task_default_queue_type="quorum",
    # The message is on the broker's disk when `delay` returns.
    broker_transport_options={"confirm_publish": True},
    # The message lives until the job is done, also when the process that does it dies.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # The result is in the job's row.
    task_ignore_result=True,
    # "If you have many tasks with a short duration": 64 in hand for each process.
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
)


@worker_process_init.connect
def _leave_connections_to_the_parent(**_: Any) -> None:
    engine.dispose(close=False)


@app.task
def echo(job_id: str) -> None:
    """Do a job."""
    run(uuid.UUID(job_id))
