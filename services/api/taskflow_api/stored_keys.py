"""The keys that PostgreSQL knows, as they were a moment ago, and that they are used."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextvars import Context
from uuid import UUID

import structlog

from taskflow.access.key_lookup import USE_SECONDS, StoredKey, look_up, note_uses
from taskflow.batching import Batcher, BatcherClosed
from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow_api.database_access import Lookups
from taskflow_api.recent import Recent

FRESH_SECONDS = 0.75
"""For how long an answer is believed: a key that is revoked must be refused within a second."""

MAX_KNOWN = 10_000
"""How many answers are kept, those that there is no such key among them."""

MAX_LOOK_UPS = 500
"""How many keys are looked up in one statement."""

WRITE_SECONDS = 5.0
"""For how long uses are collected before they are written."""

LAST_WRITE_SECONDS = 1.0

_NOT_NOW: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, *REFUSALS, ServiceUnavailable)

log = structlog.get_logger(__name__)


class KnownKey:
    """What is known of a key id: the key, or that there is none."""

    def __init__(self, stored: StoredKey | None, asked_at: float) -> None:
        """`asked_at`: before PostgreSQL was asked (`time.monotonic()`)."""
        self._stored = stored
        self._asked_at = asked_at

    @property
    def good(self) -> StoredKey | None:
        """The key, if it has neither expired nor been revoked."""
        if self._stored is None or self._stored.seconds_left is None:
            return self._stored
        is_over = time.monotonic() - self._asked_at >= self._stored.seconds_left
        return None if is_over else self._stored


class StoredKeys:
    """Looks keys up; while one look is under way, those who ask gather for the next."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._looks = Batcher(self._look, max_items=MAX_LOOK_UPS)
        self._known: Recent[str, KnownKey] = Recent(
            self._looks.submit, seconds=FRESH_SECONDS, max_entries=MAX_KNOWN
        )

    async def get(self, key_id: str) -> StoredKey | None:
        """The key with this id, if it is good.

        Raises:
            ServiceUnavailable: PostgreSQL can't be asked, or the process is stopping.
        """
        try:
            return (await self._known.get(key_id)).good
        except BatcherClosed as error:
            raise ServiceUnavailable("The API", str(error)) from error

    async def close(self) -> None:
        """Look no more."""
        await self._looks.close()

    async def _look(self, key_ids: Sequence[str]) -> Sequence[KnownKey]:
        async with self._lookups.connection() as connection:
            asked_at = time.monotonic()
            found = await look_up(connection, key_ids)
        return [KnownKey(found.get(key_id), asked_at) for key_id in key_ids]


class KeyUses:
    """Notes which keys are used, beside the requests; of a use that is lost nothing depends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: OrderedDict[UUID, float] = OrderedDict()
        """When each was noted, the longest ago first."""
        self._unwritten: set[UUID] = set()
        self._writing: asyncio.Task[None] | None = None

    def note(self, api_key_id: UUID) -> None:
        """It is used now."""
        now = time.monotonic()
        noted_at = self._noted.get(api_key_id)
        if noted_at is not None and now - noted_at < USE_SECONDS:
            return
        self._noted[api_key_id] = now
        self._noted.move_to_end(api_key_id)
        while len(self._noted) > MAX_KNOWN:
            self._unwritten.discard(self._noted.popitem(last=False)[0])
        self._unwritten.add(api_key_id)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(
                self._write_on(), name="key-uses", context=Context()
            )

    async def close(self) -> None:
        """Write what is left, if PostgreSQL takes it at once."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                await self._write()
        except _NOT_NOW as error:
            log.warning("key_uses_lost", count=len(self._unwritten), error=str(error))

    async def _write_on(self) -> None:
        while self._unwritten:
            await asyncio.sleep(WRITE_SECONDS)
            try:
                await self._write()
            except _NOT_NOW as error:
                log.warning("key_uses_not_written", error=str(error))
            except Exception:
                log.exception("key_uses_broke")
                self._unwritten.clear()

    async def _write(self) -> None:
        if used := set(self._unwritten):
            async with self._database.connection() as connection:
                await note_uses(connection, used)
            self._unwritten -= used
