"""Which of several schedulers acts: the one whose session holds an advisory lock.

The lock is kept as a lease. Its session talks every second, and PostgreSQL ends a session that
has been silent for a while: a leader that is frozen or cut off loses the lock without its own
help. It counts itself a leader only for less than that while since its last word, so it knows
when it wakes up.

Who has the broker is better off as a leader. A candidate that has it says so by a second lock,
which many may share. A leader that has been without the broker for a while gives the lead to such
a candidate, and candidates without it let one go first; where nobody has it, nothing changes.
"""

import asyncio
import random
import time
from collections.abc import Callable

import asyncpg
import structlog

from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS
from taskflow.db.roles import DatabaseRole, connect_as
from taskflow.tls import certificate_problem

LOCK_ID = 7_083_912_114_003
"""Arbitrary, the same in every scheduler."""

WORD_EVERY_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""After this silence PostgreSQL ends the leader's session."""

TERM_SECONDS = 4.0
"""How long after its last word a leader counts on being one."""

YIELD_AFTER_SECONDS = 5.0
"""How long a leader may be without the broker before it looks for somebody better off."""

# A lock with one 64-bit key, as pg_locks shows it.
_OTHERS_ARE_ABLE = """
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32) | objid::bigint = $1
      AND pid <> pg_backend_pid())
"""

log = structlog.get_logger(__name__)


class Leadership:
    """Takes part in the election until it is stopped.

    `is_able`: whether this process has at this moment what a leader works with.
    """

    def __init__(
        self,
        database_url: str,
        *,
        is_able: Callable[[], bool] = lambda: True,
        lock_id: int = LOCK_ID,
    ) -> None:
        self._url = database_url
        self._is_able = is_able
        self._lock_id = lock_id
        self._leads_until = 0.0
        self._session: asyncpg.Connection | None = None
        self._failures = 0
        self._candidate: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process is the one to act, now."""
        # A session that PostgreSQL has ended holds no lock, whatever is left of its term.
        return (
            time.monotonic() < self._leads_until
            and self._session is not None
            and not self._session.is_closed()
        )

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
        session = self._session = await self._connect()
        self._failures = 0
        try:
            await self._win(session)
            log.info("leadership_won")
            await self._lead(session)
            log.warning("leadership_yielded", reason="another scheduler has the broker")
        finally:
            self._leads_until = 0.0
            # Its end is what frees the locks, so it is not left to a polite good-bye.
            session.terminate()

    async def _win(self, session: asyncpg.Connection) -> None:
        says_able = False
        while True:
            if says_able != self._is_able():
                says_able = not says_able
                function = "pg_advisory_lock_shared" if says_able else "pg_advisory_unlock_shared"
                await session.execute(f"SELECT {function}($1)", self._able_lock_id)
            if (says_able or not await self._others_are_able(session)) and await session.fetchval(
                "SELECT pg_try_advisory_lock($1)", self._lock_id
            ):
                return
            await _pause()

    async def _lead(self, session: asyncpg.Connection) -> None:
        """Return when another candidate is better off."""
        able_at = time.monotonic()
        while True:
            spoken_at = time.monotonic()
            if self._is_able():
                able_at = spoken_at
                await session.execute("SELECT 1")
            elif (
                await self._others_are_able(session) and spoken_at - able_at >= YIELD_AFTER_SECONDS
            ):
                return
            self._leads_until = spoken_at + TERM_SECONDS
            await _pause()

    @property
    def _able_lock_id(self) -> int:
        return self._lock_id + 1

    async def _others_are_able(self, session: asyncpg.Connection) -> bool:
        return bool(await session.fetchval(_OTHERS_ARE_ABLE, self._able_lock_id))

    async def _connect(self) -> asyncpg.Connection:
        return await connect_as(
            DatabaseRole.SCHEDULER,
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
    # So that two schedulers don't keep asking at the same moments.
    await asyncio.sleep(WORD_EVERY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter


def _said(error: BaseException) -> str:
    return certificate_problem(error) or str(error) or type(error).__name__
