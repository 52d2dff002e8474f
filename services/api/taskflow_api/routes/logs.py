"""GET /api/v1/logs/{job_id}."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from taskflow.jobs.log_index import list_chunks
from taskflow_api import problems
from taskflow_api.dependencies import JobId, With
from taskflow_api.guards import JobReader
from taskflow_api.log_parts import LogFormat
from taskflow_api.media_types import log_format
from taskflow_api.problem_docs import Responses, headers_doc, problem_docs
from taskflow_api.problems import ATTEMPT_NOT_FOUND, ProblemError

router = APIRouter(tags=["logs"], prefix="/api/v1/logs")

MAX_TAIL_LINES = 100_000


class LogQuery(BaseModel):
    """The parameters of a log."""

    model_config = ConfigDict(extra="forbid")

    attempt: int | None = Field(None, ge=1, le=2**31 - 1, description="The lines of this attempt.")
    tail: int | None = Field(None, ge=0, le=MAX_TAIL_LINES, description="The last so many lines.")


_CONTENT = {
    LogFormat.TEXT: {
        "schema": {"type": "string"},
        "example": "2026-11-22T02:02:02.123456Z INFO    resizing  width=320\n",
    },
    LogFormat.JSON_LINES: {
        "schema": {"type": "string"},
        "example": '{"at":"2026-11-22T02:02:02.123456Z","level":"info","logger":"thumbnail",'
        '"attempt":1,"message":"resizing","width":320}\n',
    },
}
_RESPONSES: Responses = {
    200: {
        "description": "The log.",
        "content": _CONTENT,
        "headers": headers_doc({"Accept-Ranges": "`bytes`"}),
    },
    206: {
        "description": "The bytes of the range.",
        "content": _CONTENT,
        "headers": headers_doc({"Content-Range": "Which bytes of how many."}),
    },
    **problem_docs(
        problems.JOB_NOT_FOUND,
        ATTEMPT_NOT_FOUND,
        problems.NOT_ACCEPTABLE,
        problems.RANGE_NOT_SATISFIABLE,
        problems.INVALID_CONTENT,
    ),
}


@router.get(
    "/{job_id}",
    response_class=StreamingResponse,
    operation_id="get_log",
    summary="Read a job's log",
    responses=_RESPONSES,
)
async def get_log(
    *,
    request: Request,
    caller: JobReader,
    resources: With,
    job_id: JobId,
    query: Annotated[LogQuery, Query()],
    byte_range: Annotated[
        str | None, Header(alias="Range", description="`bytes=0-999`: that part alone.")
    ] = None,
) -> StreamingResponse:
    """What the job has logged, of all its attempts, as text or, by `Accept`, as JSON lines.

    A running job's log is up to date to a few seconds.
    """
    form = log_format(request.headers.get("Accept"))
    job = await resources.job_rows.read(caller.tenant_id, job_id)
    async with resources.writes.connection(caller.tenant_id) as connection:
        chunks = await list_chunks(connection, caller.tenant_id, job_id, attempt=query.attempt)
    if not chunks and query.attempt is not None and query.attempt > job["attempt"]:
        raise ProblemError(
            ATTEMPT_NOT_FOUND, f"The job {job_id} has had {job['attempt']} attempts."
        )
    log = await resources.log_reader.read(
        chunks, form=form, tail=query.tail, range_header=byte_range
    )
    return StreamingResponse(
        log.body, log.status_code, log.headers | {"Vary": "Accept"}, log.media_type
    )
