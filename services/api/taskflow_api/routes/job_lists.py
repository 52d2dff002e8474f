"""Lists of jobs, and their counts."""

import re
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from taskflow.jobs import cursors, queries
from taskflow.jobs.opening import opened_job
from taskflow.jobs.queries import JobFilter
from taskflow.jobs.schemas import JobPage, JobStats, Tag, Text, Time
from taskflow.jobs.states import JobState, Priority
from taskflow.jobs.views import job_view
from taskflow_api import problems
from taskflow_api.dependencies import With
from taskflow_api.guards import JobReader
from taskflow_api.problem_docs import problem_docs

router = APIRouter(tags=["jobs"], prefix="/api/v1/jobs")

MAX_VALUES = 50
"""How often a filter may be repeated."""

# In a query a plus sign that was not escaped arrives as a blank.
_LOST_PLUS = re.compile(r"(?<=\d) (?=\d{2}:\d{2}$)")


def _restore_plus(value: Any) -> Any:
    return _LOST_PLUS.sub("+", value) if isinstance(value, str) else value


QueryTime = Annotated[Time, BeforeValidator(_restore_plus)]
Name = Annotated[Text, Field(max_length=128)]


class Window(BaseModel):
    """When a job was created. A misspelt parameter is refused: it would give wrong results."""

    model_config = ConfigDict(extra="forbid")

    created_after: QueryTime | None = Field(
        None, description="Created at this time or later.", examples=["2026-01-31T00:00:00Z"]
    )
    created_before: QueryTime | None = Field(None, description="Created before this time.")


class JobListQuery(Window):
    """The parameters of a list."""

    state: list[JobState] = Field(
        default_factory=list, max_length=MAX_VALUES, description="Any of these; repeatable."
    )
    type: list[Name] = Field(
        default_factory=list, max_length=MAX_VALUES, description="Any of these; repeatable."
    )
    queue: list[Name] = Field(
        default_factory=list, max_length=MAX_VALUES, description="Any of these; repeatable."
    )
    priority: list[Priority] = Field(
        default_factory=list, max_length=MAX_VALUES, description="Any of these; repeatable."
    )
    tag: list[Tag] = Field(
        default_factory=list, max_length=MAX_VALUES, description="All of these; repeatable."
    )
    limit: int = Field(20, ge=1, le=100, description="How many jobs a page has at most.")
    cursor: str | None = Field(
        None, max_length=200, description="The `next_cursor` of the page before."
    )

    def filter(self) -> JobFilter:
        """What the list is narrowed to."""
        return JobFilter(
            states=self.state,
            types=self.type,
            queues=self.queue,
            priorities=self.priority,
            tags=self.tag,
            created_after=self.created_after,
            created_before=self.created_before,
        )

    def digest(self, tenant_id: UUID) -> bytes:
        """What tells this list from others; a cursor fits its own list alone."""
        filters = self.model_dump(mode="json", exclude={"limit", "cursor"})
        return cursors.list_digest({"tenant": str(tenant_id)} | filters)


@router.get(
    "",
    response_model=JobPage,
    operation_id="list_jobs",
    summary="List jobs",
    responses=problem_docs(problems.INVALID_CONTENT, problems.INVALID_CURSOR),
)
async def list_jobs(
    caller: JobReader, resources: With, query: Annotated[JobListQuery, Query()]
) -> JobPage:
    """Jobs, newest first, a page at a time: none is skipped or shown twice while others arrive.

    A result that is large is shown by the job itself alone.
    """
    digest = query.digest(caller.tenant_id)
    after = None if query.cursor is None else cursors.decode(query.cursor, digest)
    async with resources.reads.connection(caller.tenant_id) as connection:
        page = await queries.list_jobs(
            connection, caller.tenant_id, query.filter(), after=after, limit=query.limit
        )
    types = {row["type"] for row in page.rows}
    secrets = {name: await resources.job_types.secrets_of(caller.tenant_id, name) for name in types}
    following = page.next_position
    return JobPage(
        items=[
            secrets[row["type"]].shown(job_view(opened_job(resources.ring, row)))
            for row in page.rows
        ],
        next_cursor=None if following is None else cursors.encode(following, digest),
        has_more=following is not None,
    )


class JobStatsQuery(Window):
    """The parameters of the counts."""

    by: list[Literal["queue", "type"]] = Field(
        default_factory=list, max_length=MAX_VALUES, description="Count by these too; repeatable."
    )


@router.get(
    "/stats",
    response_model=JobStats,
    response_model_exclude_none=True,
    operation_id="count_jobs",
    summary="Count jobs",
    responses=problem_docs(problems.INVALID_CONTENT),
)
async def count_jobs(
    caller: JobReader, resources: With, query: Annotated[JobStatsQuery, Query()]
) -> JobStats:
    """How many jobs are in which state: in all, and by queue and type on request."""
    wanted = JobFilter(created_after=query.created_after, created_before=query.created_before)
    async with resources.reads.connection(caller.tenant_id) as connection:
        counts = await queries.count_jobs(
            connection,
            caller.tenant_id,
            wanted,
            by_queue="queue" in query.by,
            by_type="type" in query.by,
        )
    return JobStats(
        total=sum(counts.by_state.values()),
        by_state={state: counts.by_state.get(state, 0) for state in JobState},
        by_queue=counts.by_queue,
        by_type=counts.by_type,
    )
