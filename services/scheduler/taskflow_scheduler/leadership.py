"""Which of several schedulers acts: the one whose session holds an advisory lock.

The lock is kept as a lease. Its session talks every second, and PostgreSQL ends a session that
has been silent for a while: a leader that is frozen or cut off loses the lock without its own
help. It counts itself a leader only for less than that while since its last word, so it knows
when it wakes up.
"""

import asyncio
import random
import time

import asyncpg
import structlog

from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS

LOCK_ID = 7_083_912_114_003
"""Arbitrary, the same in every scheduler."""

WORD_EVERY_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""After this silence PostgreSQL ends the leader's session."""

TERM_SECONDS = 4.0
"""How long after its last word a leader counts on being one."""

log = structlog.get_logger(__name__)


class Leadership:
    """Takes part in the election until it is stopped."""

    def __init__(self, database_url: str, *, lock_id: int = LOCK_ID) -> None:
        self._url = database_url
        self._lock_id = lock_id
        self._leads_until = 0.0
        self._failures = 0
        self._candidate: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process is the one to act, now."""
        return time.monotonic() < self._leads_until

    def start(self) -> None:
        """Stand for election."""
        if self._candidate is None:
            self._candidate = asyncio.create_task(self._stand(), name="leadership")

    async def stop(self) -> None:
        """Give the lock back; a second call does nothing."""
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            candidate.cancel()
            await asyncio.gather(candidate, return_exceptions=True)

    async def _stand(self) -> None:
        while True:
            try:
                await self._serve_terms()
            except (*TRANSIENT_ERRORS, *REFUSALS) as error:
                self._failures += 1
                # Said when it begins, then at every tenth try: an outage must not fill a disk.
                if self._failures % 10 == 1:
                    log.warning("leadership_session_lost", led=self.leads, error=_said(error))
            except Exception:
                log.exception("leadership_broke", led=self.leads)
            finally:
                self._leads_until = 0.0
            await _pause()

    async def _serve_terms(self) -> None:
        session = await self._connect()
        self._failures = 0
        try:
            while not await session.fetchval("SELECT pg_try_advisory_lock($1)", self._lock_id):
                await _pause()
            log.info("leadership_won")
            while True:
                spoken_at = time.monotonic()
                await session.execute("SELECT 1")
                self._leads_until = spoken_at + TERM_SECONDS
                await _pause()
        finally:
            self._leads_until = 0.0
            # Its end is what frees the lock, so it is not left to a polite good-bye.
            session.terminate()

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            self._url,
            timeout=SILENCE_SECONDS,
            command_timeout=SILENCE_SECONDS,
            server_settings={
                "application_name": "taskflow-scheduler-leadership",
                "idle_session_timeout": str(int(SILENCE_SECONDS * 1000)),
                "statement_timeout": str(int(SILENCE_SECONDS * 1000)),
            },
        )


async def _pause() -> None:
    # Jitter, so that two schedulers don't keep asking at the same moments.
    await asyncio.sleep(WORD_EVERY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
