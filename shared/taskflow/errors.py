"""What can go wrong, said without knowing HTTP. The API's edge gives each its status."""

from collections.abc import Mapping
from uuid import UUID

from taskflow.jobs.states import JobState


class TaskFlowError(Exception):
    """The root of every error that TaskFlow raises on purpose."""


class JobNotFound(TaskFlowError):
    """No job with this id in this tenant."""

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"No job with the id {job_id}.")
        self.job_id = job_id


class JobStateConflict(TaskFlowError):
    """The job's state doesn't allow what was asked."""

    def __init__(self, job_id: UUID, state: JobState, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.state = state


class VersionMismatch(TaskFlowError):
    """The job has changed since the version that the caller named."""


class IdempotencyKeyReused(TaskFlowError):
    """The key belongs to a request with another body."""


class UnknownJobType(TaskFlowError):
    """Nothing has ever registered this type."""

    def __init__(self, job_type: str) -> None:
        super().__init__(
            f"No consumer has ever registered the job type {job_type!r}. Start a consumer whose"
            " TASKFLOW_HANDLERS names the module that defines it; GET /api/v1/job-types lists"
            " what is known."
        )
        self.job_type = job_type


class InvalidContent(TaskFlowError):
    """Content that is well-formed but not acceptable; `problems` are (JSON pointer, detail)."""

    def __init__(self, message: str, problems: list[tuple[str, str]]) -> None:
        super().__init__(message)
        self.problems = problems


class ParentNotFound(InvalidContent):
    """`depends_on` names a job that doesn't exist."""

    def __init__(self, missing: list[tuple[int, UUID]]) -> None:
        super().__init__(
            "depends_on names jobs that don't exist.",
            [(f"/depends_on/{index}", f"No job with the id {id_}.") for index, id_ in missing],
        )


class QuotaExceeded(TaskFlowError):
    """A tenant has as much as it may have: `use` of `limit`, in the unit of the quota's name."""

    def __init__(
        self, message: str, *, quota: str, limit: int, use: int, retry_after_seconds: int
    ) -> None:
        super().__init__(message)
        self.quota = quota
        self.limit = limit
        self.use = use
        self.retry_after_seconds = retry_after_seconds


class NotAllAccepted(TaskFlowError):
    """Of jobs that were submitted together some are refused, by their ids: none is there."""

    def __init__(self, refusals: Mapping[UUID, TaskFlowError]) -> None:
        super().__init__(f"{len(refusals)} of the jobs are refused.")
        self.refusals = refusals


class ServiceUnavailable(TaskFlowError):
    """A server that the request needs doesn't answer; `service` names it."""

    def __init__(self, service: str, detail: str, retry_after_seconds: int = 2) -> None:
        super().__init__(f"{service} is not available: {detail}")
        self.service = service
        self.retry_after_seconds = retry_after_seconds


class PayloadKeyMissing(ServiceUnavailable):
    """What a job holds is sealed with a key that this process doesn't have."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            "The key to what the job holds",
            f"it is sealed with the key {key_id!r}, which is not in TASKFLOW_PAYLOAD_KEYS",
            retry_after_seconds=30,
        )
        self.key_id = key_id


class SealBroken(TaskFlowError):
    """What a job holds is not what was sealed there: it was changed, moved or cut off."""

    def __init__(self, job_id: UUID, part: str) -> None:
        super().__init__(f"The {part} of the job {job_id} is not what was sealed there.")
        self.job_id = job_id
        self.part = part


class SchemaBehind(TaskFlowError):
    """The database lacks migrations that this code needs."""

    def __init__(self, found: str | None, needed: str) -> None:
        super().__init__(
            f"The database schema is at revision {found or 'none'}, this code needs {needed}."
            " Run 'make migrate'."
        )


class PublishFailed(TaskFlowError):
    """The broker did not confirm a message: it may or may not have arrived."""


class PublishTimedOut(PublishFailed):
    """The broker has said nothing about a message for too long."""


class ObjectMissing(TaskFlowError):
    """The object store has no such object."""

    def __init__(self, key: str) -> None:
        super().__init__(f"No object {key!r}.")
        self.key = key


class ConfigurationError(TaskFlowError):
    """A setting or a user's module is wrong; the process can't start."""
