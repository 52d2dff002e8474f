"""From stored rows to what was meant: whatever of a job is sealed is opened here."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from taskflow.sealing.ring import Part, Place, SealingKeyRing

Row = Mapping[Any, Any]
"""A row by its columns' names."""


def opened_job(ring: SealingKeyRing, row: Row) -> dict[str, Any]:
    """A row of `jobs`; a result that lies in the object store is not in it.

    Raises:
        PayloadKeyMissing: a key isn't there.
        SealBroken: something is not what was sealed there.
    """
    tenant_id, job_id = row["tenant_id"], row["id"]
    return dict(row) | {
        "payload": ring.open_value(Place(tenant_id, job_id, Part.PAYLOAD), row["payload"]),
        "result": ring.open_value(Place(tenant_id, job_id, Part.RESULT), row["result"]),
        "error": opened_error(ring, tenant_id, job_id, row["error"]),
    }


def opened_attempt(ring: SealingKeyRing, tenant_id: UUID, job_id: UUID, row: Row) -> dict[str, Any]:
    """A row of `queries.list_attempts`; raises what `opened_job` raises."""
    return dict(row) | {"error": opened_error(ring, tenant_id, job_id, row["error"])}


def opened_event(ring: SealingKeyRing, row: Row) -> dict[str, Any]:
    """A row of `job_events`; raises what `opened_job` raises."""
    detail = row["detail"]
    if detail and "error" in detail:
        error = opened_error(ring, row["tenant_id"], row["job_id"], detail["error"])
        detail = detail | {"error": error}
    return dict(row) | {"detail": detail}


def opened_error(
    ring: SealingKeyRing, tenant_id: UUID, job_id: UUID, error: dict[str, Any] | None
) -> dict[str, Any] | None:
    """A job's error: its message may be sealed, its type never is."""
    if error is None:
        return None
    place = Place(tenant_id, job_id, Part.ERROR)
    return error | {"message": ring.open_text(place, error["message"])}
