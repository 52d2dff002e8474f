"""How far a job has come: reported as often as the handler likes, passed on at a bounded rate."""

import threading
import time
from collections.abc import Callable

from taskflow.sdk.errors import finite
from taskflow.sdk.json_values import storable_text

FULL_PERCENT = 100
MAX_MESSAGE_CHARACTERS = 500


class LatestProgress:
    """Passes on the newest report, at most one in `interval_seconds`; the last one always arrives.

    `schedule(delay_seconds, callback)` runs the callback later, from whatever thread;
    `emit(percent, message)` must not block for long. Any thread may report.
    """

    def __init__(
        self,
        interval_seconds: float,
        schedule: Callable[[float, Callable[[], None]], None],
        emit: Callable[[float, str | None], None],
    ) -> None:
        self._interval = interval_seconds
        self._schedule = schedule
        self._emit = emit
        self._lock = threading.Lock()
        self._latest: tuple[float, str | None] | None = None
        self._scheduled = False
        self._not_before = 0.0

    def report(self, percent: float, message: str | None = None) -> None:
        """Take note of `percent` (0 to 100).

        Raises:
            ValueError: `percent` is no number within 0 and 100.
        """
        if not finite(percent) or not 0 <= percent <= FULL_PERCENT:
            raise ValueError(f"progress takes a percent within 0 and 100, not {percent!r}")
        if message is not None:
            message = storable_text(str(message), MAX_MESSAGE_CHARACTERS)
        with self._lock:
            self._latest = (float(percent), message)
            if self._scheduled:
                return
            self._scheduled = True
            delay = max(0.0, self._not_before - time.monotonic())
        self._schedule(delay, self.flush)

    def flush(self) -> None:
        """Pass on what has not been passed on yet."""
        # Emitting under the lock keeps two flushes from passing on an older report last.
        with self._lock:
            self._scheduled = False
            latest, self._latest = self._latest, None
            if latest is not None:
                self._not_before = time.monotonic() + self._interval
                self._emit(*latest)
