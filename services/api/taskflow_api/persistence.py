"""What is asked of PostgreSQL again while it is away."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import structlog

from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS, Connection
from taskflow.errors import ServiceUnavailable
from taskflow.patience import pause_seconds

SERVICE = "PostgreSQL"

RETRY_SECONDS = 5.0
"""For how long it is asked again while PostgreSQL doesn't take it."""

_NOT_NOW: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, *REFUSALS, ServiceUnavailable)

Said = TypeVar("Said")
Connect = Callable[[], AbstractAsyncContextManager[Connection]]

log = structlog.get_logger(__name__)


async def persist(connect: Connect, ask: Callable[[Connection], Awaitable[Said]]) -> Said:
    """Call `ask`, and again while PostgreSQL is away: what it writes must bear to be written twice.

    Raises:
        ServiceUnavailable: PostgreSQL doesn't answer in time.
        Exception: whatever else `ask` raises.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + RETRY_SECONDS
    failures = 0
    while True:
        try:
            async with connect() as connection:
                return await ask(connection)
        except _NOT_NOW as error:
            failures += 1
            pause = pause_seconds(failures, last=1.0)
            if loop.time() + pause > give_up_at:
                log.warning("submissions_refused", error=str(error), failures=failures)
                said = str(error) or type(error).__name__
                raise ServiceUnavailable(SERVICE, said) from error
            await asyncio.sleep(pause)
