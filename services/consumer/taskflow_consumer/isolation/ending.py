"""How the call of a handler ended, as a value that can cross threads and processes."""

import traceback

from taskflow.jobs.outcomes import MAX_ERROR_MESSAGE_CHARACTERS, JobError
from taskflow.jobs.schemas import MAX_DELAY_SECONDS
from taskflow.sdk.errors import Fail, Retry, finite
from taskflow.sdk.json_values import said, storable_text
from taskflow.values import value_type
from taskflow_consumer.isolation.contained_exits import ContainedExit

MAX_TYPE_CHARACTERS = 200
MAX_TRACEBACK_CHARACTERS = 30_000


@value_type
class Returned:
    """The handler returned; `result_json` is what, as JSON text."""

    result_json: str


@value_type
class Raised:
    """The handler, or what is needed to call it, failed.

    `traceback` is for the job's log alone. `delay_seconds` is the handler's own wish.
    `process_died`: what ran it is gone, without a word.
    """

    error: JobError
    traceback: str | None = None
    delay_seconds: float | None = None
    process_died: bool = False


Ending = Returned | Raised


def refused(kind: str, message: str) -> Raised:
    """A failure that another attempt can't mend."""
    message = storable_text(message, MAX_ERROR_MESSAGE_CHARACTERS)
    return Raised(JobError(kind, message, retryable=False))


def raised(error: BaseException) -> Raised:
    """What a handler's exception means: only `Fail` is final."""
    if isinstance(error, ContainedExit) and error.__cause__ is not None:
        error = error.__cause__
    name = type(error).__name__
    message = said(error)
    if not isinstance(error, Exception):
        # What would end a process ends only this attempt; nobody expects it to.
        message = f"The handler raised {name}" + (f": {message}" if message != name else "")
    job_error = JobError(
        type=storable_text(name, MAX_TYPE_CHARACTERS),
        message=storable_text(message, MAX_ERROR_MESSAGE_CHARACTERS),
        retryable=not isinstance(error, Fail),
    )
    deliberate = isinstance(error, Fail | Retry) and error.__cause__ is None
    return Raised(job_error, None if deliberate else _traceback(error), _delay_seconds(error))


def _delay_seconds(error: BaseException) -> float | None:
    # A subclass of a user's may not have called ours.
    delay = getattr(error, "delay_seconds", None) if isinstance(error, Retry) else None
    return delay if finite(delay) and 0 <= delay <= MAX_DELAY_SECONDS else None


def _traceback(error: BaseException) -> str:
    # The first frame is the one that called the handler.
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception as second:  # noqa: BLE001 - formatting runs code of the user's
        return f"(the traceback can't be shown: {said(second)})"
    if len(text) > MAX_TRACEBACK_CHARACTERS:
        third = MAX_TRACEBACK_CHARACTERS // 3
        text = f"{text[:third]}\n  [...]\n{text[-2 * third :]}"
    return text
