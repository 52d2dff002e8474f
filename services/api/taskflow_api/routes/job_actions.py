"""What can be done to one job: cancel, retry."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from taskflow.jobs import commands
from taskflow.jobs.schemas import JobView
from taskflow.jobs.states import JobState
from taskflow.relay import Dispatch
from taskflow_api import problems
from taskflow_api.dependencies import JobId, With
from taskflow_api.guards import JobWriter
from taskflow_api.origins import origin_of
from taskflow_api.problem_docs import problem_docs

router = APIRouter(tags=["jobs"], prefix="/api/v1/jobs")

_PROBLEMS = problem_docs(
    problems.JOB_NOT_FOUND, problems.JOB_STATE_CONFLICT, problems.INVALID_CONTENT
)

_PROBLEMS_OF_RETRY = problem_docs(
    problems.JOB_NOT_FOUND,
    problems.JOB_STATE_CONFLICT,
    problems.INVALID_CONTENT,
    problems.JOB_TYPE_NOT_ALLOWED,
    problems.TOO_MANY_REQUESTS,
    problems.QUOTA_EXCEEDED,
)


@router.post(
    "/{job_id}/cancel",
    response_model=JobView,
    operation_id="cancel_job",
    summary="Cancel a job",
    response_description="It is cancelled.",
    responses={
        202: {
            "model": JobView,
            "description": "It runs: its worker is asked to stop it (`cancel_requested`).",
        },
        **_PROBLEMS,
    },
)
async def cancel_job(
    request: Request, caller: JobWriter, resources: With, job_id: JobId
) -> Response:
    """Cancel a waiting job, or ask for the end of a running one; again does no harm."""
    async with resources.writes.connection(caller.tenant_id) as connection:
        state = await commands.cancel(
            connection, caller.tenant_id, job_id, origin=origin_of(request, caller)
        )
    document = await resources.documents.read(caller.tenant_id, job_id)
    return document.response(202 if state is JobState.RUNNING else 200)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    response_model=JobView,
    operation_id="retry_job",
    summary="Run a job again that ended badly",
    response_description="It is queued, with a fresh budget of attempts.",
    responses=_PROBLEMS_OF_RETRY,
)
async def retry_job(
    request: Request, caller: JobWriter, resources: With, job_id: JobId
) -> Response:
    """Queue a `failed`, `cancelled` or `expired` job again; attempt numbers go on rising."""
    row = await resources.job_rows.read(caller.tenant_id, job_id)
    await resources.job_type_rights.require(caller.tenant_id, row["type"])
    async with resources.writes.connection(caller.tenant_id) as connection:
        pointed = await commands.retry(
            connection,
            caller.tenant_id,
            job_id,
            resources.quotas,
            origin=origin_of(request, caller),
        )
    resources.relay.send([Dispatch(pointed)])
    return (await resources.documents.read(caller.tenant_id, job_id)).response(202)
