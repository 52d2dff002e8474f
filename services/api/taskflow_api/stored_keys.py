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
from taskflow_api.database_access import SERVICE

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
        self.stored = stored
        self._asked_at = asked_at

    @property
    def is_fresh(self) -> bool:
        """Whether this may still be believed."""
        return time.monotonic() - self._asked_at <= FRESH_SECONDS

    @property
    def good(self) -> StoredKey | None:
        """The key, if it has neither expired nor been revoked."""
        if self.stored is None or self.stored.seconds_left is None:
            return self.stored
        is_over = time.monotonic() - self._asked_at >= self.stored.seconds_left
        return None if is_over else self.stored


class StoredKeys:
    """Looks keys up; while one look is under way, those who ask gather for the next."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[str, KnownKey] = OrderedDict()
        """The oldest answer first."""
        self._looks = Batcher(self._look, max_items=MAX_LOOK_UPS, skip_cancelled=True)

    async def get(self, key_id: str) -> StoredKey | None:
        """The key with this id, if it is good.

        Raises:
            ServiceUnavailable: PostgreSQL can't be asked, or the process is stopping.
        """
        known = self._known.get(key_id)
        if known is None or not known.is_fresh:
            try:
                known = await self._looks.submit(key_id)
            except BatcherClosed as error:
                raise ServiceUnavailable("The API", str(error)) from error
        return known.good

    async def close(self) -> None:
        """Look no more."""
        await self._looks.close()

    async def _look(self, key_ids: Sequence[str]) -> Sequence[KnownKey]:
        known = [self._known.get(key_id) for key_id in key_ids]
        # Who has come while the look before was under way may find its answer here.
        fresh = [each for each in known if each is not None and each.is_fresh]
        if len(fresh) == len(known):
            return fresh
        answers = await self._ask(set(key_ids))
        for key_id, answer in answers.items():
            self._known[key_id] = answer
            self._known.move_to_end(key_id)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return [answers[key_id] for key_id in key_ids]

    async def _ask(self, key_ids: set[str]) -> dict[str, KnownKey]:
        try:
            async with self._database.connection() as connection:
                asked_at = time.monotonic()
                found = await look_up(connection, key_ids)
        except (*TRANSIENT_ERRORS, *REFUSALS) as error:
            raise ServiceUnavailable(SERVICE, str(error) or type(error).__name__) from error
        return {key_id: KnownKey(found.get(key_id), asked_at) for key_id in key_ids}


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
