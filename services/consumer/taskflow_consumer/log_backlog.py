"""Log lines that wait in memory for the object store: filled from any thread, bounded in bytes."""

import heapq
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from taskflow.jobs.attempts import ClaimedJob
from taskflow.log_lines import render_json
from taskflow.values import value_type

LOGGER_NAME = "taskflow"
"""What the lines that say what is missing name as their logger."""

_PIECE_MAX_BYTES = 1024 * 1024
_TAKE_MAX_BYTES = 8 * 1024 * 1024
_ATTEMPT_OVERHEAD_BYTES = 1024
"""About what an attempt that waits takes in memory beside its lines: a great many short logs
would otherwise never reach the limit."""


@dataclass(slots=True)
class Lines:
    """Whole rendered lines, one after the other."""

    data: bytearray = field(default_factory=bytearray)
    count: int = 0

    def add(self, line: bytes) -> None:
        """Put a line at the end."""
        self.data += line
        self.count += 1


@dataclass(slots=True)
class Tally:
    """How much was left out."""

    lines: int = 0
    bytes: int = 0

    def add(self, lines: int, size: int) -> None:
        """Count more of it."""
        self.lines += lines
        self.bytes += size

    def __str__(self) -> str:
        return f"{self.lines} lines ({self.bytes} bytes)"


class AttemptLines:
    """The lines of one attempt that have yet to be stored; an `AttemptLog`."""

    def __init__(self, backlog: "Backlog", job: ClaimedJob) -> None:
        self._backlog = backlog
        self.tenant_id = job.tenant_id
        self.job_id = job.attempt.job_id
        self.number = job.attempt.number
        self.waiting: deque[Lines] = deque()
        self.waiting_bytes = 0
        self.accepted_bytes = 0
        self.over_limit = Tally()
        self.lost = Tally()
        self.is_closed = False

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        """Keep one line; nothing once the log is closed."""
        self._backlog.append(self, self.render(level, message, logger, fields))

    async def close(self) -> None:
        """Take no more lines, and have those that wait stored soon."""
        self._backlog.close(self)

    def render(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> bytes:
        """The line as it is stored."""
        return render_json(
            datetime.now(UTC),
            level=level,
            logger=logger,
            attempt=self.number,
            message=message,
            fields=fields,
        )

    def remark(self, text: str) -> bytes:
        """A line of TaskFlow's own about what is missing at this place."""
        return self.render("warning", f"… {text}", LOGGER_NAME, {})


@value_type
class Stretch:
    """Lines of one attempt that belong together, at most a piece long."""

    tenant_id: UUID
    job_id: UUID
    attempt: int
    lines: Lines


@dataclass(frozen=True, slots=True)
class Batch:
    """What was taken at once; `is_partial` when more was due than could be taken."""

    stretches: Sequence[Stretch]
    is_partial: bool


class Backlog:
    """All lines of a worker that are not stored yet.

    Past `buffer_max_bytes` the oldest lines of the biggest attempts are dropped, and each of
    these logs says so at that place.
    """

    def __init__(
        self,
        *,
        attempt_max_bytes: int,
        buffer_max_bytes: int,
        on_pressing: Callable[[], None],
        on_closed: Callable[[], None],
    ) -> None:
        """`on_pressing` is called, by any thread, when a whole batch waits."""
        self._attempt_max_bytes = attempt_max_bytes
        self._buffer_max_bytes = buffer_max_bytes
        self._take_bytes = min(_TAKE_MAX_BYTES, max(buffer_max_bytes // 4, 1))
        self._piece_bytes = min(_PIECE_MAX_BYTES, max(buffer_max_bytes // 64, 1))
        self._on_pressing = on_pressing
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self._waiting: dict[AttemptLines, None] = {}
        self._waiting_bytes = 0
        self._taken = Tally()
        self._forgotten = Tally()
        self._is_pressing = False
        self._is_shut = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def append(self, log: AttemptLines, line: bytes) -> None:
        """Put a line at the end of an attempt's log."""
        with self._lock:
            if log.is_closed or self._is_shut:
                return
            if log.over_limit.lines:
                log.over_limit.add(1, len(line))
                return
            if log.accepted_bytes + len(line) > self._attempt_max_bytes:
                log.over_limit.add(1, len(line))
                line = log.remark(
                    f"the log is cut here: it has reached its limit of {self._attempt_max_bytes}"
                    " bytes; further lines are counted, not kept"
                )
            pressing = self._add(log, line)
        if pressing:
            self._on_pressing()

    def close(self, log: AttemptLines) -> None:
        """End an attempt's log; again changes nothing."""
        with self._lock:
            if log.is_closed or self._is_shut:
                return
            if log.over_limit.lines:
                self._add(log, log.remark(f"{log.over_limit} after the cut were not kept"))
            log.is_closed = True
            waits = log in self._waiting
        if waits:
            self._on_closed()

    def take(self, *, only_closed: bool, why_lost: str) -> Batch:
        """Take out what is due, the shortest logs first, each log's lines in their order.

        It stays in the account until it is settled.
        """
        with self._lock:
            stretches: list[Stretch] = []
            room = self._take_bytes
            due = [log for log in self._waiting if log.is_closed or not only_closed]
            for log in sorted(due, key=lambda log: log.waiting_bytes):
                while room > 0 and (lines := self._next_lines(log, why_lost)) is not None:
                    stretches.append(Stretch(log.tenant_id, log.job_id, log.number, lines))
                    self._taken.add(lines.count, len(lines.data))
                    room -= len(lines.data)
            self._is_pressing = self._waiting_bytes >= self._take_bytes
            return Batch(stretches, is_partial=any(log in self._waiting for log in due))

    def settle(self, batch: Batch) -> None:
        """What was taken is stored, and gone from memory."""
        with self._lock:
            for stretch in batch.stretches:
                self._taken.add(-stretch.lines.count, -len(stretch.lines.data))

    def collect_forgotten(self) -> Tally:
        """What was dropped since the last call without a place left to say so."""
        with self._lock:
            forgotten, self._forgotten = self._forgotten, Tally()
            return forgotten

    def shut(self) -> Tally:
        """Take nothing more from now on; what was never stored, also of what was taken."""
        with self._lock:
            self._is_shut = True
            left, self._taken = self._taken, Tally()
            for log in self._waiting:
                left.add(sum(lines.count for lines in log.waiting), log.waiting_bytes)
                left.add(log.lost.lines, log.lost.bytes)
            self._waiting.clear()
            self._waiting_bytes = 0
            return left

    def _add(self, log: AttemptLines, line: bytes) -> bool:
        """Add the line; whether a whole batch has come to wait by it."""
        if not log.waiting or len(log.waiting[-1].data) + len(line) > self._piece_bytes:
            log.waiting.append(Lines())
            self._waiting[log] = None
        log.waiting[-1].add(line)
        log.waiting_bytes += len(line)
        log.accepted_bytes += len(line)
        self._waiting_bytes += len(line)
        if self._memory_bytes() > self._buffer_max_bytes:
            self._make_room()
        was_pressing = self._is_pressing
        self._is_pressing = self._waiting_bytes >= self._take_bytes
        return self._is_pressing and not was_pressing

    def _next_lines(self, log: AttemptLines, why_lost: str) -> Lines | None:
        lines: Lines | None = None
        if log.lost.lines:
            lines = Lines()
            lines.add(log.remark(f"{log.lost} lost: {why_lost}"))
            log.lost = Tally()
        elif log.waiting:
            lines = self._pop_oldest(log)
        if not log.waiting:
            self._waiting.pop(log, None)
        return lines

    def _pop_oldest(self, log: AttemptLines) -> Lines:
        lines = log.waiting.popleft()
        log.waiting_bytes -= len(lines.data)
        self._waiting_bytes -= len(lines.data)
        return lines

    def _memory_bytes(self) -> int:
        overhead = len(self._waiting) * _ATTEMPT_OVERHEAD_BYTES
        return self._waiting_bytes + self._taken.bytes + overhead

    def _make_room(self) -> None:
        # A tenth more than needed, so that this is not done again for every line.
        target = self._buffer_max_bytes * 9 // 10
        full = [log for log in self._waiting if log.waiting]
        biggest = [(-log.waiting_bytes, at, log) for at, log in enumerate(full)]
        heapq.heapify(biggest)
        while self._memory_bytes() > target and biggest:
            _, at, log = heapq.heappop(biggest)
            lines = self._pop_oldest(log)
            log.lost.add(lines.count, len(lines.data))
            if log.waiting:
                heapq.heappush(biggest, (-log.waiting_bytes, at, log))
        for log in [log for log in self._waiting if log.is_closed]:
            if self._memory_bytes() <= target:
                break
            # Not even the line about its gap fits: the service's own log says it.
            del self._waiting[log]
            self._forgotten.add(log.lost.lines, log.lost.bytes)
