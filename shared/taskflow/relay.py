"""The way from a commit to the broker: from memory, with confirms, a failure written down.

A confirm writes nothing: marking every job as sent would cost as much as inserting it. What was
not confirmed loses its stamp in PostgreSQL, and the scheduler sends it again; what is lost along
with this process is found by the scheduler's rule for lost pointers (docs/decisions).
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog

from taskflow.broker import topology
from taskflow.broker.message import encode
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import PublishFailed, PublishTimedOut, ServiceUnavailable
from taskflow.jobs.backoff import rung_for
from taskflow.jobs.dispatch import unstamp
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.relay_backlog import Backlog, Batch, Destination
from taskflow.values import value_type

WINDOW = 1000
"""How many messages may wait for their confirms at once; for one destination, half of them."""

MAX_WAITING = 20_000
"""How many pointers wait in memory; beyond it they are left to the scheduler."""

NOTE_SLICE = 2000
"""How many pointers that could not be sent are written down in one statement."""

log = structlog.get_logger(__name__)


@value_type
class Dispatch:
    """A pointer, and for how many seconds the ladder carries it first (0: straight to its lane)."""

    pointer: Pointer
    delay_seconds: float = 0.0


@value_type
class Burial:
    """A failed job's pointer on its way to the dead; PostgreSQL keeps the truth of it."""

    pointer: Pointer
    reason: str


Sending = Dispatch | Burial
_UNREACHABLE: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)


_Errors = Sequence[BaseException | None]
"""Of what was sent together, for each why it was not confirmed."""


@value_type
class _Entry:
    sending: Sending
    batch: Batch


class Relay:
    """Publishes in the order of arrival, with up to `WINDOW` messages in flight.

    A destination that keeps its confirms back leaves room for the others. Once one of its messages
    has timed out, what else waits for it at that moment is left to the scheduler.
    """

    def __init__(self, publisher: Publisher, database: Database) -> None:
        self._publisher = publisher
        self._database = database
        self._waiting: Backlog[_Entry] = Backlog(WINDOW)
        self._in_flight: set[asyncio.Task[_Errors]] = set()
        self._unsent: list[_Entry] = []
        self._publishes = False
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._clerk: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether a pointer given now has a chance to be sent now."""
        return self._publisher.ready and len(self._waiting) < MAX_WAITING

    @property
    def lanes_under_way(self) -> set[Lane]:
        """Lanes whose pointers wait here or for their confirms."""
        return {each for each in self._waiting.destinations if isinstance(each, Lane)}

    def start(self) -> None:
        """Begin to publish what is given."""
        if self._clerk is None:
            self._clerk = asyncio.create_task(self._keep_notes(), name="relay")
            self._publishes = True
            self._fill_window()

    async def stop(self, timeout_seconds: float) -> None:
        """Send what waits, write down what could not be sent; a second call does nothing."""
        clerk, self._clerk = self._clerk, None
        if clerk is None:
            return
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            waiting = len(self._waiting) + self._waiting.under_way
            log.warning("relay_stopped_early", waiting=waiting)
        self._publishes = False
        ending = [*self._in_flight, clerk]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for destination in self._waiting.destinations:
            self._give_up_waiting(destination, "the process stops")
        await self._write_down()

    def send(self, sendings: Iterable[Sending]) -> Batch:
        """Take pointers whose stamps are committed; returns at once."""
        given = list(sendings)
        batch = Batch(len(given))
        for sending in given:
            entry = _Entry(sending, batch)
            if len(self._waiting) < MAX_WAITING:
                self._waiting.add(_destination(sending), entry)
            else:
                self._give_up(entry, "too many are waiting")
        self._idle.clear()
        self._changed.set()
        self._fill_window()
        return batch

    async def wait_idle(self) -> None:
        """Return when nothing waits, all that was given being sent or written down."""
        await self._idle.wait()

    def _fill_window(self) -> None:
        together: defaultdict[Destination, list[_Entry]] = defaultdict(list)
        while self._publishes and (taken := self._waiting.take()):
            destination, entry = taken
            together[destination].append(entry)
        for destination, entries in together.items():
            task = asyncio.create_task(self._publish(destination, entries), name="relay-publish")
            self._in_flight.add(task)
            task.add_done_callback(partial(self._end, destination, entries))

    def _end(
        self, destination: Destination, entries: list[_Entry], task: "asyncio.Task[_Errors]"
    ) -> None:
        self._in_flight.discard(task)
        self._waiting.note_end(destination, len(entries))
        errors = _errors_of(task, len(entries))
        for entry, error in zip(entries, errors, strict=True):
            self._end_one(entry, error)
        if any(isinstance(error, PublishTimedOut) for error in errors):
            self._give_up_waiting(destination, "an earlier one was not confirmed")
        self._fill_window()
        self._changed.set()

    def _end_one(self, entry: _Entry, error: BaseException | None) -> None:
        if error is None:
            entry.batch.note_end()
        elif isinstance(error, PublishFailed):
            self._give_up(entry, str(error))
        elif isinstance(error, asyncio.CancelledError):
            self._give_up(entry, "the process stops")
        else:
            self._give_up(entry, "an unexpected error")
            log.error("publish_broke", job_id=str(entry.sending.pointer.job_id), exc_info=error)

    async def _publish(self, destination: Destination, entries: list[_Entry]) -> _Errors:
        """What is for a lane as one piece; the way to the ladder and the dead is no hot one."""
        if isinstance(destination, Lane):
            return await self._publisher.publish_many([each.sending.pointer for each in entries])
        return await asyncio.gather(
            *(self._publish_one(each.sending) for each in entries), return_exceptions=True
        )

    async def _publish_one(self, sending: Sending) -> None:
        pointer = sending.pointer
        if isinstance(sending, Burial):
            await self._publisher.publish_dead(encode(pointer), pointer.lane.key, sending.reason)
        else:
            await self._publisher.publish_later(pointer, sending.delay_seconds)

    def _give_up_waiting(self, destination: Destination, why: str) -> None:
        for entry in self._waiting.drop(destination):
            self._give_up(entry, why)

    def _give_up(self, entry: _Entry, why: str) -> None:
        if isinstance(entry.sending, Burial):
            job_id = str(entry.sending.pointer.job_id)
            log.warning("dead_pointer_not_sent", job_id=job_id, error=why)
            entry.batch.note_end()
        else:
            self._unsent.append(entry)

    async def _keep_notes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._write_down()
            if not (self._waiting or self._in_flight or self._unsent):
                self._idle.set()

    async def _write_down(self) -> None:
        if not self._unsent:
            return
        unsent, self._unsent = sorted(self._unsent, key=_by_id), []
        written = 0
        try:
            while written < len(unsent):
                await self._unstamp(unsent[written : written + NOTE_SLICE])
                written += NOTE_SLICE
        except _UNREACHABLE as error:
            # Without this note they count as lost pointers, which are found a little later.
            log.warning("unsent_pointers_not_noted", count=len(unsent) - written, error=str(error))
        except asyncio.CancelledError:
            self._unsent = unsent[written:] + self._unsent
            raise
        except Exception:
            log.exception("unsent_pointers_not_noted", count=len(unsent) - written)
        else:
            log.info("pointers_left_to_scheduler", count=len(unsent))
        for entry in unsent:
            entry.batch.note_end()

    async def _unstamp(self, unsent: Sequence[_Entry]) -> None:
        pointers = [entry.sending.pointer for entry in unsent]
        async with self._database.connection() as connection:
            await unstamp(connection, [(each.job_id, each.pointer_at) for each in pointers])


def _errors_of(task: "asyncio.Task[_Errors]", count: int) -> _Errors:
    """Of each; what ended the task ended all that were in it."""
    if task.cancelled():
        return [asyncio.CancelledError()] * count
    broken = task.exception()
    return task.result() if broken is None else [broken] * count


def _destination(sending: Sending) -> Destination:
    """What must answer for a message to be confirmed."""
    if isinstance(sending, Burial):
        return topology.DEAD_EXCHANGE
    if sending.delay_seconds > 0:
        return topology.retry_exchange(rung_for(sending.delay_seconds))
    return sending.pointer.lane


def _by_id(entry: _Entry) -> tuple[UUID, datetime]:
    return entry.sending.pointer.job_id, entry.sending.pointer.pointer_at
