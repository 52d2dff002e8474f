"""What a handler raises on purpose, and what a context or a payload raises at it."""

import math
from typing import TypeGuard

from taskflow.errors import TaskFlowError
from taskflow.jobs.schemas import MAX_DELAY_SECONDS


class Retry(Exception):
    """Raised by a handler: it failed for now, run it again.

    `delay_seconds` overrides the job type's backoff. The budget of attempts still holds.

    Raises:
        ValueError: `delay_seconds` is negative, longer than ten years or no number.
    """

    def __init__(self, message: str, delay_seconds: float | None = None) -> None:
        super().__init__(message)
        if delay_seconds is not None and not 0 <= delay_seconds <= MAX_DELAY_SECONDS:
            raise ValueError(
                f"Retry's delay_seconds must be within 0 and {MAX_DELAY_SECONDS},"
                f" not {delay_seconds!r}"
            )
        self.delay_seconds = delay_seconds


class Fail(Exception):
    """Raised by a handler: it can never work, don't run it again."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class InvalidPayload(TaskFlowError):
    """The payload doesn't fit the handler's model; the message names each field by its path."""


class NotJson(TaskFlowError, ValueError):
    """A value can't be stored as JSON."""


class JsonTooLarge(NotJson):
    """A value takes more room as JSON than is allowed."""

    def __init__(self, size_bytes: int, max_bytes: int) -> None:
        super().__init__(f"it takes {size_bytes} bytes as JSON; at most {max_bytes} are stored")


class JobStopped(TaskFlowError):
    """The attempt has ended without its handler; what it still saves would be lost."""

    def __init__(self) -> None:
        super().__init__("This attempt has been stopped; nothing more is kept of it.")


def finite(value: object) -> TypeGuard[float]:
    """Whether `value` is an int or a float that a double can hold, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
