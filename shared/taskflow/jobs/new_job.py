"""A job on its way in, and what became of it: values without a server."""

from collections.abc import Sequence
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from taskflow.jobs.states import JobState, Priority
from taskflow.values import value_type


@value_type
class Idempotency:
    """A client's key for one path, and what stands for the canonical request (32 bytes).

    `also`: what the same request may have been stored as, under other keys.
    """

    path: str
    key: str
    fingerprint: bytes
    also: Sequence[bytes] = ()


@value_type
class NewJob:
    """A job to insert: validated, its defaults filled in, its id chosen.

    `sealed_payload` is stored in the payload's place; None: the payload is stored as it is.
    """

    id: UUID
    tenant_id: UUID
    type: str
    queue: str
    priority: Priority
    payload: dict[str, Any]
    max_attempts: int
    name: str | None = None
    description: str | None = None
    tags: Sequence[str] = ()
    metadata: dict[str, Any] | None = None
    unique_key: str | None = None
    depends_on: Sequence[UUID] = ()
    run_at: datetime | None = None
    delay_seconds: float | None = None
    expires_at: datetime | None = None
    ttl_seconds: float | None = None
    timeout_seconds: float | None = None
    idempotency: Idempotency | None = None
    sealed_payload: str | None = field(default=None, repr=False)

    @property
    def is_linked(self) -> bool:
        """Whether other jobs' rows decide about this one: a twin, or parents."""
        return self.unique_key is not None or bool(self.depends_on)


class SubmissionKind(StrEnum):
    """What became of a submission."""

    ACCEPTED = "accepted"
    REPLAYED = "replayed"
    DEDUPLICATED = "deduplicated"
    REPLAYED_DEDUPLICATED = "replayed_deduplicated"


_REPLAYED = (SubmissionKind.REPLAYED, SubmissionKind.REPLAYED_DEDUPLICATED)
_DEDUPLICATED = (SubmissionKind.DEDUPLICATED, SubmissionKind.REPLAYED_DEDUPLICATED)


@value_type
class FilledIn:
    """What a job's type may have filled in when the job was accepted; it never changes."""

    queue: str
    max_attempts: int
    timeout_seconds: float | None


@value_type
class Submission:
    """An answer: which job, and in which state it was when it was accepted (times in UTC).

    `pointer_at` is set when a pointer is now to be published, `filled_in` on a replay of a job
    that is still there: the type's defaults may have changed since.
    """

    kind: SubmissionKind
    job_id: UUID
    state: JobState
    created_at: datetime
    run_at: datetime | None = None
    expires_at: datetime | None = None
    pointer_at: datetime | None = None
    filled_in: FilledIn | None = None

    @property
    def is_replayed(self) -> bool:
        """Whether an earlier answer to the same key is given again."""
        return self.kind in _REPLAYED

    @property
    def is_deduplicated(self) -> bool:
        """Whether the job is another one, which was alive with the same `unique_key`."""
        return self.kind in _DEDUPLICATED
