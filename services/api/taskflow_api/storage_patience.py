"""How long a reader waits for the object storage."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskflow.errors import ServiceUnavailable
from taskflow.object_store import SERVICE

STORAGE_SECONDS = 10.0
"""The store's own patience is twice as long by default, and a reader's may have ended by then."""


@asynccontextmanager
async def storage_patience() -> AsyncIterator[None]:
    """A limit for what an answer needs before it can begin.

    Raises:
        ServiceUnavailable: it did not come in time.
    """
    try:
        async with asyncio.timeout(STORAGE_SECONDS):
            yield
    except TimeoutError:
        raise ServiceUnavailable(SERVICE, f"nothing came within {STORAGE_SECONDS:g} s") from None
