"""Who a worker is, and how the others get to know it."""

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.jobs.worker_state import WorkerState
from taskflow.jobs.workers import (
    JobTypeRegistration,
    WorkerRegistration,
    register_job_types,
    register_worker,
    set_worker_state,
)
from taskflow.sdk.registry import Registry
from taskflow.settings import ConsumerSettings
from taskflow_consumer.last_words import LastWords

_DATABASE_AWAY: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this worker is and what it takes on; the id is new at every start."""

    worker_id: UUID
    queues: tuple[str, ...]
    job_types: tuple[str, ...]

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that it takes from."""
        return [Lane(queue, priority) for queue in self.queues for priority in Priority]


def identify(settings: ConsumerSettings, registry: Registry) -> Identity:
    """A new worker; without queues in the settings: those of its job types, and `default`."""
    queues = settings.queues or tuple(
        sorted({"default", *(job_type.queue for job_type in registry)})
    )
    return Identity(uuid7(), queues, registry.names)


@contextlib.asynccontextmanager
async def registered(
    me: Identity,
    registry: Registry,
    database: Database,
    concurrency: int,
    last_words: LastWords,
) -> AsyncIterator[Callable[[WorkerState], Coroutine[Any, Any, None]]]:
    """Register the worker and its job types; gives what tells the worker's state.

    At the end the worker is said to have stopped.
    """
    async with database.connection() as connection:
        await register_job_types(
            connection,
            [
                JobTypeRegistration(
                    name=job_type.name,
                    schema=job_type.payload_schema,
                    queue=job_type.queue,
                    max_attempts=job_type.max_attempts,
                    timeout_seconds=job_type.timeout_seconds,
                    description=job_type.description,
                )
                for job_type in registry
            ],
        )
        await register_worker(
            connection,
            WorkerRegistration(
                id=me.worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version("taskflow-consumer"),
                queues=me.queues,
                job_types=me.job_types,
                concurrency=concurrency,
            ),
        )
    say = partial(_say, database, me)
    try:
        yield say
    finally:
        await last_words.bound(say(WorkerState.STOPPED))


async def _say(database: Database, me: Identity, state: WorkerState) -> None:
    """Tell the worker's row; a row that can't be told is called lost by its silence."""
    try:
        async with database.connection() as connection:
            await set_worker_state(connection, me.worker_id, state)
    except _DATABASE_AWAY as error:
        log.warning("worker_state_not_told", state=state, error=str(error))
