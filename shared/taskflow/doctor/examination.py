"""What `taskflow doctor` looks at, in the order in which it is told."""

import contextlib
from collections.abc import Sequence

from taskflow.broker.outages import library_cancellations
from taskflow.db.tenants import Session
from taskflow.doctor.broker import BrokerReport, examine_broker, open_broker
from taskflow.doctor.consistency import Bounds, Sources, examine_invariants
from taskflow.doctor.diagnosis import Diagnosis, Level, fail, unseen
from taskflow.doctor.servers import (
    DATABASE_ERRORS,
    check_database,
    check_object_store,
    check_redis,
    not_answered,
    open_connection,
    open_object_store,
    said,
)
from taskflow.doctor.workforce import (
    check_schedulers,
    check_waiting,
    check_workers,
    read_waiting,
    read_workers,
)
from taskflow.errors import ServiceUnavailable
from taskflow.settings import DoctorSettings

_DATABASE_AWAY: tuple[type[BaseException], ...] = (*DATABASE_ERRORS, ServiceUnavailable)


async def examine(
    settings: DoctorSettings, *, newest_jobs: int, objects: int, timeout_seconds: float
) -> list[Diagnosis]:
    """Look at everything: the servers, then who works, then whether the invariants hold."""
    broker = await _examine_broker(settings.amqp_url.get_secret_value())
    object_store = await check_object_store(settings)
    others = [
        *broker.diagnoses,
        object_store,
        await check_redis(settings.redis_url.get_secret_value()),
    ]
    bounds = Bounds(
        newest_jobs,
        objects,
        settings.pointer_lost_after_seconds,
        timeout_seconds,
        settings.heartbeat_seconds,
    )
    try:
        async with open_connection(
            settings, statement_timeout_seconds=timeout_seconds
        ) as connection:
            database = await check_database(connection)
            if database.level is not Level.OK:
                return [database, *others, _nothing_else(database.text)]
            workforce = await _examine_workforce(connection, settings)
            async with contextlib.AsyncExitStack() as resources:
                store = None
                if object_store.level is Level.OK:
                    store = open_object_store(settings)
                    resources.push_async_callback(store.close)
                invariants = await examine_invariants(
                    Sources(connection, store, broker.dead_messages), bounds
                )
    except _DATABASE_AWAY as error:
        refusal = fail(
            "PostgreSQL",
            said(error),
            "Start PostgreSQL, or mend TASKFLOW_DATABASE_URL; nothing works without it.",
        )
        return [refusal, *others, _nothing_else("PostgreSQL does not answer")]
    return [database, *others, *workforce, *invariants]


async def _examine_broker(amqp_url: str) -> BrokerReport:
    try:
        with library_cancellations():
            async with open_broker(amqp_url) as connection:
                return await examine_broker(connection)
    except ServiceUnavailable as error:
        what_to_do = (
            "Start RabbitMQ, or mend TASKFLOW_AMQP_URL; jobs are accepted meanwhile and sent when"
            " it is back."
        )
        return BrokerReport([fail("RabbitMQ", str(error), what_to_do)])


async def _examine_workforce(connection: Session, settings: DoctorSettings) -> Sequence[Diagnosis]:
    try:
        alive, lost = await read_workers(
            connection, lost_after_seconds=settings.worker_lost_after_seconds
        )
        return [
            await check_schedulers(connection),
            check_workers(alive, lost),
            *check_waiting(await read_waiting(connection), alive),
        ]
    except DATABASE_ERRORS as error:
        return [not_answered("workers", error)]


def _nothing_else(why: str) -> Diagnosis:
    return unseen(
        "invariants", f"workers, backlog and invariants: {why}", "Mend that, and run it again."
    )
