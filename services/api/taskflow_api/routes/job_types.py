"""GET /api/v1/job-types, and the schema of one."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import JSONResponse

from taskflow.errors import UnknownJobType
from taskflow.jobs import queries
from taskflow.jobs.schemas import TYPE_PATTERN, JobTypeList
from taskflow.jobs.views import job_type_view
from taskflow_api import problems
from taskflow_api.dependencies import With
from taskflow_api.guards import JobReader
from taskflow_api.problem_docs import problem_docs
from taskflow_api.problems import JOB_TYPE_NOT_FOUND, ProblemError

router = APIRouter(tags=["job types"], prefix="/api/v1/job-types")


class SchemaResponse(JSONResponse):
    """A JSON Schema."""

    media_type = "application/schema+json"


@router.get(
    "",
    response_model=JobTypeList,
    operation_id="list_job_types",
    summary="List the job types",
    responses=problem_docs(),
)
async def list_job_types(caller: JobReader, resources: With) -> JobTypeList:
    """What consumers have registered: the types that a job may have."""
    async with resources.reads.connection(caller.tenant_id) as connection:
        rows = await queries.list_job_types(
            connection, lost_after_seconds=resources.worker_lost_after_seconds
        )
    return JobTypeList(items=[job_type_view(row) for row in rows])


@router.get(
    "/{job_type}/schema",
    operation_id="get_job_type_schema",
    summary="Read the schema of a job type's payload",
    responses={
        200: {
            "description": "A JSON Schema.",
            "content": {
                SchemaResponse.media_type: {
                    "schema": {"type": "object"},
                    "example": {
                        "type": "object",
                        "properties": {"text": {"type": "string"}},
                        "required": ["text"],
                    },
                }
            },
        },
        **problem_docs(JOB_TYPE_NOT_FOUND, problems.INVALID_CONTENT),
    },
    response_class=SchemaResponse,
)
async def get_job_type_schema(
    caller: JobReader,
    resources: With,
    job_type: Annotated[str, Path(pattern=TYPE_PATTERN, examples=["echo"])],
) -> SchemaResponse:
    """What a payload of this type must be like."""
    try:
        schema = await resources.job_types.schema_of(caller.tenant_id, job_type)
    except UnknownJobType as error:
        raise ProblemError(JOB_TYPE_NOT_FOUND, f"Nothing has registered {job_type!r}.") from error
    return SchemaResponse(schema)
