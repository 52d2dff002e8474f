"""Which types of jobs a tenant may have, where nobody but itself has let it in."""

from collections.abc import Collection
from uuid import UUID

from taskflow.access.tenants import is_registered
from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow.errors import InvalidContent, TaskFlowError
from taskflow_api.database_access import Lookups
from taskflow_api.recent import Recent

FRESH_SECONDS = 5.0
"""For how long it is believed how a tenant came to be; the operator may make it one of its own."""

ANY_TYPE = "*"

MOST_ATTEMPTS = 10
"""Of a job of theirs: each attempt leaves rows and a log that no quota counts."""


class JobTypeNotAllowed(TaskFlowError):
    """The tenant may not have jobs of this type."""

    def __init__(self, job_type: str) -> None:
        super().__init__(
            f"Tenants that came to be by a registration may not have jobs of the type {job_type!r}:"
            " who runs this service lists the types that they may have"
            " (TASKFLOW_REGISTRATION_JOB_TYPES), or lets a tenant have all."
        )


class JobTypeRights:
    """A tenant that a registration made may have jobs of the listed types; any other, of all."""

    def __init__(self, lookups: Lookups, types: Collection[str]) -> None:
        self._lookups = lookups
        self._types = frozenset(types)
        self._registered: Recent[UUID, bool] = Recent(self._is_registered, seconds=FRESH_SECONDS)

    async def require(self, tenant_id: UUID, job_type: str) -> None:
        """Pass where the tenant may have jobs of this type, whether or not there is such a type.

        Raises:
            JobTypeNotAllowed: it may not.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        # The default tenant asks nobody: its key works while PostgreSQL is started anew.
        if {job_type, ANY_TYPE} & self._types or tenant_id == DEFAULT_TENANT_ID:
            return
        if await self._registered.get(tenant_id):
            raise JobTypeNotAllowed(job_type)

    async def require_attempts(self, tenant_id: UUID, attempts: int | None) -> None:
        """Pass where a job of the tenant's may have so many attempts; None: its type's own number.

        Raises:
            InvalidContent: it may not.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        if (attempts or 0) <= MOST_ATTEMPTS or tenant_id == DEFAULT_TENANT_ID:
            return
        if await self._registered.get(tenant_id):
            raise InvalidContent(
                "The job would have more attempts than it may.",
                [
                    (
                        "/max_attempts",
                        f"is at most {MOST_ATTEMPTS} for tenants that came to be by a registration",
                    )
                ],
            )

    async def _is_registered(self, tenant_id: UUID) -> bool:
        async with self._lookups.connection() as connection:
            return await is_registered(connection, tenant_id)
