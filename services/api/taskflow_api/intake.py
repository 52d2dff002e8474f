"""From a request to a job that can be inserted: checked, its defaults filled in, its id chosen."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from taskflow.errors import InvalidContent, UnknownJobType
from taskflow.jobs.new_job import Idempotency, NewJob
from taskflow.jobs.schemas import JobRequest
from taskflow.jobs.views import JOBS_PATH
from taskflow.sealing.ring import SealingKeyRing
from taskflow.values import value_type
from taskflow_api.job_type_rights import JobTypeNotAllowed, JobTypeRights
from taskflow_api.job_types import JobTypes
from taskflow_api.secret_fields import NO_SECRETS, SecretFields

PATH = JOBS_PATH
"""The path that idempotency keys of submissions are scoped to."""

REFUSALS = (InvalidContent, UnknownJobType, JobTypeNotAllowed)
"""What `admit` refuses a job by. It may have been accepted all the same, by its idempotency key:
before its times ran out, or its type or the settings changed."""

_DEFAULT_QUEUE = "default"
_DEFAULT_MAX_ATTEMPTS = 4


# Made once: `json.dumps` with options makes an encoder for each call.
_encode_canonically = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@value_type
class Defaults:
    """What a job takes from its type that it doesn't say itself, and what of it isn't shown."""

    queue: str = _DEFAULT_QUEUE
    max_attempts: int = _DEFAULT_MAX_ATTEMPTS
    timeout_seconds: float | None = None
    secrets: SecretFields = NO_SECRETS


async def admit(
    request: JobRequest, rights: JobTypeRights, job_types: JobTypes, tenant_id: UUID
) -> Defaults:
    """Check what depends on more than the request; the defaults of its type.

    Raises:
        JobTypeNotAllowed: the tenant may not have jobs of the type.
        UnknownJobType: nothing has ever registered the type.
        InvalidContent: the payload doesn't fit the type, or the job would expire before it runs.
        ServiceUnavailable: PostgreSQL can't be asked.
    """
    await rights.require(tenant_id, request.type)
    await rights.require_attempts(tenant_id, request.max_attempts)
    known = await job_types.check(tenant_id, request.type, request.payload)
    _refuse_early_end(request, datetime.now(UTC))
    return Defaults(known.queue, known.max_attempts, known.timeout_seconds, known.secrets)


def new_job(
    request: JobRequest,
    defaults: Defaults,
    ring: SealingKeyRing,
    *,
    tenant_id: UUID,
    idempotency: Idempotency | None,
) -> NewJob:
    """The job to insert; what is stored of its payload is sealed, if `ring` seals."""
    job_id = uuid7()
    return NewJob(
        id=job_id,
        tenant_id=tenant_id,
        type=request.type,
        queue=request.queue or defaults.queue,
        priority=request.priority,
        payload=request.payload,
        max_attempts=request.max_attempts or defaults.max_attempts,
        name=request.name,
        description=request.description,
        tags=request.tags,
        metadata=request.metadata,
        unique_key=request.unique_key,
        depends_on=request.depends_on,
        run_at=request.run_at,
        delay_seconds=request.delay_seconds,
        expires_at=request.expires_at,
        ttl_seconds=request.ttl_seconds,
        timeout_seconds=request.timeout_seconds or defaults.timeout_seconds,
        idempotency=idempotency,
        sealed_payload=ring.sealed_payload(tenant_id, job_id, request.payload),
    )


def idempotency_of(
    request: JobRequest, ring: SealingKeyRing, *, tenant_id: UUID, key: str | None
) -> Idempotency | None:
    """What the client's key for this request is remembered by; None without a key."""
    if key is None:
        return None
    fingerprint, *also = ring.fingerprints(tenant_id, canonical(request))
    return Idempotency(PATH, key, fingerprint, also)


def canonical(request: JobRequest) -> bytes:
    """The request, the same for the same content however it is written."""
    content = request.model_dump(mode="json", exclude_defaults=True)
    return _encode_canonically(content).encode()


def _refuse_early_end(request: JobRequest, now: datetime) -> None:
    if request.expires_at is not None:
        member, end = "expires_at", request.expires_at
    elif request.ttl_seconds is not None:
        member, end = "ttl_seconds", now + timedelta(seconds=request.ttl_seconds)
    else:
        return
    start = request.run_at or now + timedelta(seconds=request.delay_seconds or 0)
    if end <= now:
        problem = "is in the past"
    elif end <= start:
        problem = "ends before the job may run"
    else:
        return
    raise InvalidContent("The job would expire before it could run.", [(f"/{member}", problem)])
