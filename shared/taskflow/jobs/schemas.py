"""What clients send and what they get: the public models, pure of any server."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    model_validator,
)
from pydantic_core import PydanticCustomError

from taskflow.jobs.json_value import (
    MAX_ZEROS,
    find_problem,
    text_problem,
    zeros_of_exponents,
)
from taskflow.jobs.states import JobEvent, JobState, Priority
from taskflow.jobs.worker_state import WorkerState

MAX_ATTEMPTS = 1_000
MAX_DELAY_SECONDS = 10 * 366 * 86_400
MAX_TIMEOUT_SECONDS = 30 * 86_400
MAX_METADATA_BYTES = 16 * 1024
LAST_TIME = datetime.max.replace(tzinfo=UTC) - timedelta(microseconds=1)
"""What is later is kept as this: asyncpg takes the very last time that there is for `infinity`."""
QUEUE_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
TYPE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)


def _storable_text(value: str) -> str:
    problem = text_problem(value)
    if problem:
        raise ValueError(problem)
    return value


def _storable_json(value: Any) -> Any:
    problem = find_problem(value)
    if not problem and zeros_of_exponents(value) > MAX_ZEROS:
        problem = "", f"must not have numbers whose exponents stand for over {MAX_ZEROS} digits"
    if problem:
        pointer, detail = problem
        # The pointer goes on from the member's own, which only the model knows.
        context = {"pointer": pointer, "detail": detail}
        raise PydanticCustomError("not_storable", "{detail}", context)
    return value


def _small_enough(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value)) + zeros_of_exponents(value) > MAX_METADATA_BYTES:
        raise ValueError(
            f"must not be longer than {MAX_METADATA_BYTES} bytes as JSON without exponents"
        )
    return value


def _rfc_3339(value: Any) -> Any:
    # pydantic would take bare numbers as seconds since 1970, and dates as midnights.
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with its offset, like 2030-01-31T12:00:00Z")
    return value


def _to_utc(value: datetime) -> datetime:
    try:
        return min(value.astimezone(UTC), LAST_TIME)
    except OverflowError as error:
        raise ValueError("is out of range") from error


def shown_time(value: datetime) -> str:
    """A time as answers have it: RFC 3339 in UTC, with microseconds."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Text = Annotated[str, AfterValidator(_storable_text)]
Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_to_utc)]
ShownTime = Annotated[datetime, PlainSerializer(shown_time, return_type=str)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_storable_json)]
QueueName = Annotated[str, Field(pattern=QUEUE_PATTERN)]
TypeName = Annotated[str, Field(pattern=TYPE_PATTERN)]
Tag = Annotated[Text, Field(min_length=1, max_length=64)]
Tags = Annotated[list[Tag], Field(max_length=20)]
Metadata = Annotated[JsonObject, Field(max_length=50), AfterValidator(_small_enough)]
Key = Annotated[Text, Field(min_length=1, max_length=255)]
Delay = Annotated[float, Strict(), Field(ge=0, le=MAX_DELAY_SECONDS, allow_inf_nan=False)]
Lifetime = Annotated[float, Strict(), Field(gt=0, le=MAX_DELAY_SECONDS)]
TimeLimit = Annotated[float, Strict(), Field(gt=0, le=MAX_TIMEOUT_SECONDS)]
AttemptCount = Annotated[int, Strict(), Field(ge=1, le=MAX_ATTEMPTS)]


class JobRequest(BaseModel):
    """A job to run. What is left out takes the job type's own default."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"type": "echo", "payload": {"text": "hello"}},
                {
                    "type": "thumbnail",
                    "payload": {"image": "cat.jpg", "width": 320},
                    "priority": "high",
                    "delay_seconds": 60,
                    "max_attempts": 5,
                    "tags": ["cats"],
                },
            ]
        },
    )

    type: TypeName = Field(description="What to run; GET /api/v1/job-types lists what is known.")
    payload: JsonObject = Field(default_factory=dict, description="The handler's argument.")
    queue: QueueName | None = Field(None, description='Default: the job type\'s, else "default".')
    priority: Priority = Priority.MEDIUM
    run_at: Time | None = Field(None, description="Not before this time.")
    delay_seconds: Delay | None = Field(None, description="Not before so many seconds from now.")
    expires_at: Time | None = Field(None, description="If it hasn't begun by then, it expires.")
    ttl_seconds: Lifetime | None = Field(None, description="As expires_at, in seconds from now.")
    timeout_seconds: TimeLimit | None = Field(
        None, description="The limit of each attempt. Default: the job type's."
    )
    max_attempts: AttemptCount | None = Field(
        None, description="How many attempts in all. Default: the job type's, else 4."
    )
    unique_key: Key | None = Field(
        None, description="While a job with this key lives, another is not made: it is returned."
    )
    depends_on: Annotated[list[UUID], Field(max_length=100)] = Field(
        default_factory=list, description="Jobs that must be completed first."
    )
    tags: Tags = Field(default_factory=list)
    metadata: Metadata = Field(default_factory=dict)
    name: Annotated[Text, Field(max_length=255)] | None = None
    description: Annotated[Text, Field(max_length=2_000)] | None = None

    @model_validator(mode="after")
    def _one_of_each_pair(self) -> "JobRequest":
        if self.run_at is not None and self.delay_seconds is not None:
            raise ValueError("run_at and delay_seconds exclude each other")
        if self.expires_at is not None and self.ttl_seconds is not None:
            raise ValueError("expires_at and ttl_seconds exclude each other")
        return self


_NEVER_NULL = ("priority", "payload", "tags", "metadata")


def _describe_patch(schema: dict[str, Any]) -> None:
    schema["examples"] = [{"priority": "urgent", "tags": ["late"]}]
    schema["minProperties"] = 1
    for name in _NEVER_NULL:
        member = schema["properties"][name]
        [kind] = [kind for kind in member.pop("anyOf") if kind != {"type": "null"}]
        del member["default"]
        member |= kind


class JobPatch(BaseModel):
    """What may change while a job waits. A member that is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_describe_patch)

    priority: Priority | None = None
    run_at: Time | None = Field(None, description="null: as soon as possible.")
    payload: JsonObject | None = None
    tags: Tags | None = None
    metadata: Metadata | None = None
    expires_at: Time | None = Field(None, description="null: never.")

    @model_validator(mode="after")
    def _something(self) -> "JobPatch":
        if not self.model_fields_set:
            raise ValueError("names nothing to change")
        for name in _NEVER_NULL:
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} must not be null")
        return self


class ErrorView(BaseModel):
    """Why an attempt failed."""

    type: str
    message: str
    retryable: bool


class ProgressView(BaseModel):
    """What the handler said of its progress."""

    percent: float
    message: str | None = None


class JobLinks(BaseModel):
    """Where to go on from here."""

    self: str
    logs: str
    attempts: str
    events: str


class JobView(BaseModel):
    """A job."""

    id: UUID
    type: str
    state: JobState
    attempt: int = Field(description="The number of the latest attempt; 0: none has begun.")
    payload: dict[str, Any]
    queue: str
    priority: Priority
    run_at: ShownTime
    expires_at: ShownTime | None
    timeout_seconds: float | None
    max_attempts: int
    unique_key: str | None
    depends_on: list[UUID]
    tags: list[str]
    metadata: dict[str, Any]
    name: str | None
    description: str | None
    result: Any = None
    error: ErrorView | None
    progress: ProgressView | None
    cancel_requested: bool
    created_at: ShownTime
    updated_at: ShownTime
    started_at: ShownTime | None = Field(description="When the latest attempt began.")
    finished_at: ShownTime | None
    deduplicated: bool = Field(
        False, description="On a submission: a live job had this unique_key already; this is it."
    )
    links: JobLinks


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    items: list[JobView]
    next_cursor: str | None
    has_more: bool


class JobStats(BaseModel):
    """Counts of jobs."""

    total: int
    by_state: dict[JobState, int]
    by_queue: dict[str, dict[JobState, int]] | None = None
    by_type: dict[str, dict[JobState, int]] | None = None


class AttemptView(BaseModel):
    """One run of a job."""

    number: int
    outcome: str = Field(description="running, completed, retryable, failed, cancelled or lost.")
    worker_id: UUID | None
    started_at: ShownTime
    finished_at: ShownTime | None
    duration_seconds: float | None
    error: ErrorView | None


class AttemptList(BaseModel):
    """A job's attempts, in their order."""

    items: list[AttemptView]


class EventView(BaseModel):
    """One transition of a job."""

    event: JobEvent
    source: JobState | None
    target: JobState
    attempt: int
    worker_id: UUID | None
    detail: dict[str, Any] | None
    at: ShownTime


class EventList(BaseModel):
    """A job's history, in its order."""

    items: list[EventView]


class WorkerView(BaseModel):
    """A consumer process."""

    id: UUID
    host: str
    pid: int
    version: str
    state: WorkerState
    alive: bool = Field(description="Whether its last heartbeat is recent and it has not stopped.")
    queues: list[str]
    job_types: list[str]
    concurrency: int
    running: list[UUID] = Field(description="The jobs it runs now.")
    started_at: ShownTime
    heartbeat_at: ShownTime


class WorkerList(BaseModel):
    """The consumers of the last day, newest first."""

    items: list[WorkerView]


class JobTypeView(BaseModel):
    """A kind of job that a consumer has registered."""

    name: str
    payload_schema: dict[str, Any]
    queue: str
    max_attempts: int
    timeout_seconds: float | None
    description: str | None
    workers: int = Field(description="How many live consumers run it.")
    registered_at: ShownTime
    updated_at: ShownTime


class JobTypeList(BaseModel):
    """Every job type that was ever registered, by name."""

    items: list[JobTypeView]
