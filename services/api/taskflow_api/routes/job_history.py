"""What happened to one job: its attempts and events."""

from fastapi import APIRouter

from taskflow.jobs import queries
from taskflow.jobs.opening import opened_attempt, opened_event
from taskflow.jobs.schemas import AttemptList, EventList
from taskflow.jobs.views import attempt_view, event_view
from taskflow_api import problems
from taskflow_api.dependencies import JobId, With
from taskflow_api.guards import JobReader
from taskflow_api.problem_docs import problem_docs

router = APIRouter(tags=["jobs"], prefix="/api/v1/jobs")

_PROBLEMS = problem_docs(problems.JOB_NOT_FOUND, problems.INVALID_CONTENT)


@router.get(
    "/{job_id}/attempts",
    response_model=AttemptList,
    operation_id="list_attempts",
    summary="List a job's attempts",
    responses=_PROBLEMS,
)
async def list_attempts(caller: JobReader, resources: With, job_id: JobId) -> AttemptList:
    """Every run of the job in order, with its worker, times and error."""
    async with resources.reads.connection(caller.tenant_id) as connection:
        rows = await queries.list_attempts(connection, caller.tenant_id, job_id)
    ring = resources.ring
    opened = [opened_attempt(ring, caller.tenant_id, job_id, row) for row in rows]
    return AttemptList(items=[attempt_view(row) for row in opened])


@router.get(
    "/{job_id}/events",
    response_model=EventList,
    operation_id="list_events",
    summary="List a job's transitions",
    responses=_PROBLEMS,
)
async def list_events(caller: JobReader, resources: With, job_id: JobId) -> EventList:
    """Every transition of the job in order."""
    async with resources.reads.connection(caller.tenant_id) as connection:
        rows = await queries.list_events(connection, caller.tenant_id, job_id)
    return EventList(items=[event_view(opened_event(resources.ring, row)) for row in rows])
