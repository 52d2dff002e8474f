"""What leads from the broker to a waiting job, as a value without a broker."""

from datetime import datetime
from uuid import UUID

from taskflow.jobs.lanes import Lane
from taskflow.values import value_type


@value_type
class Pointer:
    """Where a waiting job is found, and when its pointer was stamped (database time).

    It may be published once its stamp is committed; one that could not be is unstamped again.
    """

    job_id: UUID
    lane: Lane
    type: str
    pointer_at: datetime
