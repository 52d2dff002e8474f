"""GET /api/v1/workers."""

from fastapi import APIRouter

from taskflow.jobs import queries
from taskflow.jobs.schemas import WorkerList
from taskflow.jobs.views import worker_view
from taskflow_api.dependencies import With
from taskflow_api.guards import JobReader
from taskflow_api.problem_docs import problem_docs

router = APIRouter(tags=["workers"], prefix="/api/v1/workers")


@router.get(
    "",
    response_model=WorkerList,
    operation_id="list_workers",
    summary="List the consumers",
    responses=problem_docs(),
)
async def list_workers(caller: JobReader, resources: With) -> WorkerList:
    """Who runs, since when, for which queues and types, and which of your jobs it runs now."""
    async with resources.reads.connection(caller.tenant_id) as connection:
        rows = await queries.list_workers(
            connection,
            caller.tenant_id,
            lost_after_seconds=resources.worker_lost_after_seconds,
        )
    return WorkerList(items=[worker_view(row) for row in rows])
