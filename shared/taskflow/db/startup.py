"""A process begins work when its database answers and has the migrations that it needs."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS, Database
from taskflow.db.schema_version import check_schema
from taskflow.errors import ConfigurationError, ServiceUnavailable
from taskflow.patience import pause_seconds
from taskflow.tls import certificate_problem

PATIENCE_SECONDS = 30.0

_AWAY: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)

log = structlog.get_logger(__name__)


async def wait_for_database(
    database: Database, *, patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Return when the database is ready for this code.

    Raises:
        SchemaBehind: it lacks migrations.
        ConfigurationError: it refuses us, or doesn't answer in time; one line that says so.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_seconds
    failures = 0
    while True:
        try:
            async with database.connection() as connection:
                await check_schema(connection)
        except REFUSALS as error:
            raise _refused(error) from error
        except _AWAY as error:
            if isinstance(error.__cause__, REFUSALS):
                raise _refused(error.__cause__) from error
            failures += 1
            if loop.time() >= deadline:
                raise ConfigurationError(
                    f"TASKFLOW_DATABASE_URL: no answer within {patience_seconds:.0f} s: {error}"
                ) from error
            log.warning("database_unreachable", error=str(error), failures=failures)
            await asyncio.sleep(pause_seconds(failures))
        else:
            return


async def is_ready_before(
    stop_is_asked: Callable[[], Coroutine[Any, Any, object]], database: Database
) -> bool:
    """Wait for the database; False: `stop_is_asked` returned before it was ready.

    Raises:
        SchemaBehind, ConfigurationError: as `wait_for_database`.
    """
    ready = asyncio.create_task(wait_for_database(database))
    asked = asyncio.create_task(stop_is_asked())
    try:
        await asyncio.wait({ready, asked}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            await ready
        return ready.done()
    finally:
        for task in (ready, asked):
            task.cancel()
        await asyncio.gather(ready, asked, return_exceptions=True)


def _refused(refusal: BaseException) -> ConfigurationError:
    return ConfigurationError(f"TASKFLOW_DATABASE_URL: {certificate_problem(refusal) or refusal}")
