"""A job type: a name, and the function that runs its jobs."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast

from pydantic import ValidationError

from taskflow.errors import ConfigurationError
from taskflow.jobs.backoff import Backoff
from taskflow.jobs.schemas import (
    MAX_ATTEMPTS,
    MAX_DELAY_SECONDS,
    MAX_TIMEOUT_SECONDS,
    TYPE_PATTERN,
)
from taskflow.sdk.context import JobContext, SyncJobContext
from taskflow.sdk.errors import InvalidPayload, finite
from taskflow.sdk.signature import HandlerSignature, read_signature
from taskflow.settings import QUEUE_NAME

JOB_TYPE_NAME = re.compile(TYPE_PATTERN)
MAX_PROBLEMS_TOLD = 10
LEAST_MEMORY_MIB = 64
"""About what a Python process with pydantic takes before it does anything."""
MOST_MEMORY_MIB = 16 * 1024 * 1024

Isolation = Literal["process"] | None
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JobType:
    """A kind of job, as its author declared it; made by `@job`."""

    name: str
    handler: Callable[..., Any]
    signature: HandlerSignature
    queue: str
    timeout_seconds: float | None
    max_attempts: int
    isolation: Isolation
    memory_mib: int | None
    backoff: Backoff
    description: str | None
    is_async: bool = field(init=False)
    """Whether its handler is an `async def`."""

    def __post_init__(self) -> None:
        """Look once at what is asked for each job."""
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.handler))

    @property
    def payload_schema(self) -> Mapping[str, Any]:
        """The JSON schema of its payloads."""
        return self.signature.payload_schema

    @property
    def where(self) -> str:
        """Module and name of its function."""
        return f"{self.handler.__module__}.{self.handler.__qualname__}"

    def arguments(
        self, payload_json: str, context: JobContext | SyncJobContext
    ) -> tuple[object, ...]:
        """What the handler is called with.

        Raises:
            InvalidPayload: the payload doesn't fit.
        """
        payload = self.signature.payload
        given: tuple[object, ...] = ()
        if payload is not None:
            try:
                given = (payload.validate_json(payload_json),)
            except ValidationError as error:
                raise InvalidPayload(_problems(error)) from error
        return (*given, context) if self.signature.takes_context else given


def _problems(error: ValidationError) -> str:
    """Field paths and what is wrong there; not the values, which may be secret."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    told = [
        "/".join(["", *(str(part) for part in problem["loc"])]) + ": " + problem["msg"]
        for problem in problems[:MAX_PROBLEMS_TOLD]
    ]
    more = len(problems) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


class JobFunction(Protocol[P, R_co]):
    """A handler: called like the function that it is, and known as a job."""

    job_type: JobType

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the handler itself."""


def job(
    name: str,
    *,
    queue: str = "default",
    timeout_seconds: float | None = None,
    max_attempts: int = 4,
    isolation: Isolation = None,
    memory_mib: int | None = None,
    backoff: Backoff | None = None,
    description: str | None = None,
) -> Callable[[Callable[P, R_co]], JobFunction[P, R_co]]:
    """Make a function the handler of the job type `name`.

    The function stays as it is and gets an attribute `job_type`. It takes a payload (a pydantic
    model, dataclass, TypedDict or dict, or none at all) and, if it likes, a `JobContext`. A
    consumer finds it in the modules of `TASKFLOW_HANDLERS`; nothing is registered by importing.

    `async def` runs in the consumer's loop, `def` in a thread, and either in a process of its own
    with `isolation="process"`, where `memory_mib` bounds its memory. `description` is the first
    paragraph of the docstring unless given.

    Raises:
        ConfigurationError: a value is out of its range, or the function can't be a handler.
    """

    def declare(function: Callable[P, R_co]) -> JobFunction[P, R_co]:
        try:
            job_type = JobType(
                name=_checked(name, JOB_TYPE_NAME, "a job type's name"),
                handler=function,
                signature=read_signature(function),
                queue=_checked(queue, QUEUE_NAME, "a queue's name"),
                timeout_seconds=_checked_timeout(timeout_seconds),
                max_attempts=_checked_attempts(max_attempts),
                isolation=_checked_isolation(isolation),
                memory_mib=_checked_memory(memory_mib, isolation),
                backoff=_checked_backoff(backoff),
                description=description or _first_paragraph(function),
            )
            if "job_type" in vars(function):
                raise ConfigurationError("it is a job already")
        except ConfigurationError as error:
            raise ConfigurationError(f"{_where(function)}: {error}") from error
        declared = cast("JobFunction[P, R_co]", function)
        declared.job_type = job_type
        return declared

    return declare


def _where(function: object) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"


def _checked(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ConfigurationError(f"{value!r} is not {what} ({pattern.pattern})")
    return value


def _checked_timeout(seconds: float | None) -> float | None:
    if seconds is not None and not (finite(seconds) and 0 < seconds <= MAX_TIMEOUT_SECONDS):
        raise ConfigurationError(
            f"timeout_seconds must be above 0 and at most {MAX_TIMEOUT_SECONDS}, not {seconds!r}"
        )
    return seconds


def _checked_attempts(attempts: int) -> int:
    if type(attempts) is not int or not 1 <= attempts <= MAX_ATTEMPTS:
        raise ConfigurationError(f"max_attempts must be 1 to {MAX_ATTEMPTS}, not {attempts!r}")
    return attempts


def _checked_isolation(isolation: Isolation) -> Isolation:
    if isolation not in (None, "process"):
        raise ConfigurationError(f"isolation is 'process' or None, not {isolation!r}")
    return isolation


def _checked_memory(mebibytes: int | None, isolation: Isolation) -> int | None:
    if mebibytes is None:
        return None
    if isolation != "process":
        raise ConfigurationError("memory_mib needs isolation='process'")
    if type(mebibytes) is not int or not LEAST_MEMORY_MIB <= mebibytes <= MOST_MEMORY_MIB:
        raise ConfigurationError(
            f"memory_mib must be {LEAST_MEMORY_MIB} to {MOST_MEMORY_MIB}, not {mebibytes!r}"
        )
    return mebibytes


def _checked_backoff(backoff: Backoff | None) -> Backoff:
    backoff = backoff or Backoff()
    if backoff.cap_seconds > MAX_DELAY_SECONDS:
        raise ConfigurationError(
            f"a backoff's cap_seconds is at most {MAX_DELAY_SECONDS}, not {backoff!r}"
        )
    return backoff


def _first_paragraph(function: object) -> str | None:
    text = inspect.getdoc(function) or ""
    return " ".join(text.split("\n\n")[0].split()) or None
