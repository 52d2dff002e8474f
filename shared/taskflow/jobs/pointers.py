"""What leads from the broker to a waiting job, as a value without a broker."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from taskflow.jobs.lanes import Lane


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a waiting job is found, and when its pointer was stamped (database time).

    It may be published once its stamp is committed; one that could not be is unstamped again.
    """

    job_id: UUID
    lane: Lane
    type: str
    pointer_at: datetime
