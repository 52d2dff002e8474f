"""The way from a commit to the broker: from memory, with confirms, a failure written down.

A confirm writes nothing: marking every job as sent would cost as much as inserting it. What was
not confirmed loses its stamp in PostgreSQL, and the scheduler sends it again; what is lost along
with this process is found by the scheduler's rule for lost pointers (docs/decisions).
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from taskflow.broker.message import encode
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import PublishFailed, ServiceUnavailable
from taskflow.jobs.dispatch import unstamp
from taskflow.jobs.pointers import Pointer

WINDOW = 200
"""How many messages may wait for their confirms at once."""

MAX_WAITING = 20_000
"""How many pointers wait in memory; beyond it they are left to the scheduler."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A pointer, and for how many seconds the ladder carries it first (0: straight to its lane)."""

    pointer: Pointer
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Burial:
    """A failed job's pointer on its way to the dead; PostgreSQL keeps the truth of it."""

    pointer: Pointer
    reason: str


Sending = Dispatch | Burial
_UNREACHABLE: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)


class Relay:
    """Publishes in windows: while one is in flight the next collects."""

    def __init__(self, publisher: Publisher, database: Database) -> None:
        self._publisher = publisher
        self._database = database
        self._waiting: deque[Sending] = deque()
        self._unsent: list[Pointer] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._worker: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether a pointer given now has a chance to be sent now."""
        return self._publisher.ready and len(self._waiting) < MAX_WAITING

    def start(self) -> None:
        """Begin to publish what is given."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._run(), name="relay")

    async def stop(self, timeout_seconds: float) -> None:
        """Send what waits, write down what could not be sent; a second call does nothing."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            log.warning("relay_stopped_early", waiting=len(self._waiting))
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        while self._waiting:
            self._give_up(self._waiting.popleft(), "the process stops")
        await self._write_down()

    def send(self, sendings: Iterable[Sending]) -> None:
        """Take pointers whose stamps are committed; returns at once."""
        for sending in sendings:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(sending)
            else:
                self._give_up(sending, "too many are waiting")
        self._idle.clear()
        self._wake.set()

    async def wait_idle(self) -> None:
        """Return when everything given so far is sent or written down."""
        await self._idle.wait()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._unsent:
                await self._send_window()
                await self._write_down()
            self._idle.set()

    async def _send_window(self) -> None:
        window = [self._waiting.popleft() for _ in range(min(WINDOW, len(self._waiting)))]
        try:
            results = await asyncio.gather(
                *(self._publish(sending) for sending in window), return_exceptions=True
            )
        except asyncio.CancelledError:
            for sending in window:
                self._give_up(sending, "the process stops")
            raise
        for sending, result in zip(window, results, strict=True):
            if isinstance(result, PublishFailed):
                self._give_up(sending, str(result))
            elif isinstance(result, BaseException):
                self._give_up(sending, "an unexpected error")
                log.error("publish_broke", job_id=str(sending.pointer.job_id), exc_info=result)

    async def _publish(self, sending: Sending) -> None:
        pointer = sending.pointer
        if isinstance(sending, Burial):
            await self._publisher.publish_dead(encode(pointer), pointer.lane.key, sending.reason)
        elif sending.delay_seconds > 0:
            await self._publisher.publish_later(pointer, sending.delay_seconds)
        else:
            await self._publisher.publish(pointer)

    def _give_up(self, sending: Sending, why: str) -> None:
        if isinstance(sending, Burial):
            log.warning("dead_pointer_not_sent", job_id=str(sending.pointer.job_id), error=why)
        else:
            self._unsent.append(sending.pointer)

    async def _write_down(self) -> None:
        if not self._unsent:
            return
        unsent, self._unsent = self._unsent, []
        pairs = sorted((pointer.job_id, pointer.pointer_at) for pointer in unsent)
        try:
            async with self._database.connection() as connection:
                await unstamp(connection, pairs)
        except _UNREACHABLE as error:
            # Without this note they count as lost pointers, which are found a little later.
            log.warning("unsent_pointers_not_noted", count=len(unsent), error=str(error))
        except asyncio.CancelledError:
            self._unsent = unsent + self._unsent
            raise
        except Exception:
            log.exception("unsent_pointers_not_noted", count=len(unsent))
        else:
            log.info("pointers_left_to_scheduler", count=len(unsent))
