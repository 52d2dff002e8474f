"""GET /api/v1/audit-log."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from taskflow.access import queries
from taskflow.access.queries import AuditFilter
from taskflow.access.schemas import AuditPage
from taskflow.access.views import audit_entry_view
from taskflow.jobs import cursors
from taskflow_api import problems
from taskflow_api.dependencies import With
from taskflow_api.guards import Admin
from taskflow_api.problem_docs import problem_docs
from taskflow_api.routes.job_lists import MAX_VALUES, Name, Window

router = APIRouter(tags=["audit log"], prefix="/api/v1/audit-log")


class AuditQuery(Window):
    """The parameters of the log."""

    actor: list[Name] = Field(
        default_factory=list,
        max_length=MAX_VALUES,
        description="Any of these ids of keys, users or logins; repeatable.",
    )
    action: list[Name] = Field(
        default_factory=list,
        max_length=MAX_VALUES,
        description="Any of these, like `api_key.revoke`; repeatable.",
    )
    resource: list[Name] = Field(
        default_factory=list,
        max_length=MAX_VALUES,
        description="Any of these ids of what was changed; repeatable.",
    )
    limit: int = Field(20, ge=1, le=100, description="How many entries a page has at most.")
    cursor: str | None = Field(
        None, max_length=200, description="The `next_cursor` of the page before."
    )

    def filter(self) -> AuditFilter:
        """What the log is narrowed to."""
        return AuditFilter(
            actors=self.actor,
            actions=self.action,
            resources=self.resource,
            created_after=self.created_after,
            created_before=self.created_before,
        )

    def digest(self, tenant_id: UUID) -> bytes:
        """What tells this list from others."""
        filters = self.model_dump(mode="json", exclude={"limit", "cursor"})
        return cursors.list_digest({"tenant": str(tenant_id), "list": "audit_log"} | filters)


@router.get(
    "",
    response_model=AuditPage,
    operation_id="list_audit_log",
    summary="Who did what",
    responses=problem_docs(problems.INVALID_CONTENT, problems.INVALID_CURSOR),
)
async def list_audit_log(
    caller: Admin, resources: With, query: Annotated[AuditQuery, Query()]
) -> AuditPage:
    """What was done to your tenant's keys, by its users and to its jobs, newest first.

    An entry is written by the transaction that does it, and no request can change it.
    """
    digest = query.digest(caller.tenant_id)
    after = None if query.cursor is None else cursors.decode(query.cursor, digest)
    async with resources.reads.connection(caller.tenant_id) as connection:
        page = await queries.list_audit_log(
            connection, caller.tenant_id, query.filter(), after=after, limit=query.limit
        )
    following = page.next_position
    return AuditPage(
        items=[audit_entry_view(row) for row in page.rows],
        next_cursor=None if following is None else cursors.encode(following, digest),
        has_more=following is not None,
    )
