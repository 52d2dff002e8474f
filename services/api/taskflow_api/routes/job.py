"""One job: read, change, delete."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from taskflow.jobs import commands, patching
from taskflow.jobs.schemas import JobPatch, JobView
from taskflow.jobs.states import TERMINAL
from taskflow.relay import Dispatch
from taskflow_api import problems
from taskflow_api.dependencies import JobId, WaitSeconds, With
from taskflow_api.etags import PATTERN as ETAGS_PATTERN
from taskflow_api.etags import is_unchanged, versions_in
from taskflow_api.guards import JobReader, JobWriter
from taskflow_api.job_documents import with_result
from taskflow_api.json_body import read_body
from taskflow_api.origins import origin_of
from taskflow_api.problem_docs import headers_doc, json_body_doc, problem_docs

router = APIRouter(tags=["jobs"], prefix="/api/v1/jobs")

_ETAG = {"ETag": "The job's version, for If-None-Match and If-Match."}


@router.get(
    "/{job_id}",
    response_model=JobView,
    operation_id="get_job",
    summary="Read a job",
    responses={
        200: {
            "headers": headers_doc(
                _ETAG | {"Preference-Applied": "`wait`: the answer was held as asked."}
            )
        },
        304: {"description": "It is as `If-None-Match` names it.", "headers": headers_doc(_ETAG)},
        **problem_docs(problems.JOB_NOT_FOUND, problems.INVALID_CONTENT),
    },
)
async def get_job(
    *,
    request: Request,
    caller: JobReader,
    resources: With,
    job_id: JobId,
    wait: WaitSeconds,
    if_none_match: Annotated[
        str | None, Header(description="An `ETag`: 304 while the job is unchanged.")
    ] = None,
) -> Response:
    """State, progress and result of a job. `Prefer: wait=10` holds the answer until it ends."""
    document = await resources.documents.read(caller.tenant_id, job_id)
    applied = wait is not None
    if wait and document.row["state"] not in TERMINAL:
        end = resources.waiters.wait(caller.tenant_id, job_id, wait)
        applied = await _unless_departed(request, end)
        if applied:
            document = await resources.documents.read(caller.tenant_id, job_id)
    headers = {"Preference-Applied": "wait"} if applied else {}
    if is_unchanged(if_none_match, document.etag):
        return document.unchanged(headers)
    document = await with_result(document, resources.results, resources.ring)
    return document.response(headers=headers)


async def _unless_departed(request: Request, wait: Coroutine[Any, Any, bool]) -> bool:
    """What the wait comes to, as long as somebody is there to be answered.

    Raises:
        ClientDisconnect: the client is gone.
    """
    end = asyncio.create_task(wait)
    departure = asyncio.create_task(_departure(request))
    try:
        await asyncio.wait({end, departure}, return_when=asyncio.FIRST_COMPLETED)
        if departure.done():
            await departure
            raise ClientDisconnect
        return end.result()
    finally:
        end.cancel()
        departure.cancel()
        await asyncio.gather(end, departure, return_exceptions=True)


async def _departure(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.patch(
    "/{job_id}",
    response_model=JobView,
    operation_id="change_job",
    summary="Change a waiting job",
    responses={
        200: {"headers": headers_doc(_ETAG)},
        **problem_docs(
            problems.MALFORMED_BODY,
            problems.MALFORMED_HEADER,
            problems.JOB_NOT_FOUND,
            problems.JOB_STATE_CONFLICT,
            problems.JOB_TYPE_NOT_ALLOWED,
            problems.VERSION_MISMATCH,
            problems.REQUEST_TIMEOUT,
            problems.BODY_TOO_LARGE,
            problems.UNSUPPORTED_MEDIA_TYPE,
            problems.INVALID_CONTENT,
            problems.TOO_MANY_REQUESTS,
            problems.QUOTA_EXCEEDED,
        ),
    },
    openapi_extra=json_body_doc(JobPatch),
)
async def change_job(
    *,
    request: Request,
    caller: JobWriter,
    resources: With,
    job_id: JobId,
    if_match: Annotated[
        str | None,
        Header(
            description="`ETag`s: 412 if the job is none of these versions.",
            examples=['"6448a1c3d2b40-0123456789abcdef"', "*"],
            # For readers alone: one that is malformed is a 400, not the 422 of a pattern.
            json_schema_extra={"pattern": ETAGS_PATTERN},
        ),
    ] = None,
) -> Response:
    """Change what is named; the rest stays. Only a job that waits can be changed."""
    versions = versions_in(if_match)
    change = await read_body(request, JobPatch)
    if change.payload is not None:
        row = await resources.job_rows.read(caller.tenant_id, job_id)
        await resources.job_type_rights.require(caller.tenant_id, row["type"])
        await resources.job_types.check(caller.tenant_id, row["type"], change.payload)
    async with resources.writes.connection(caller.tenant_id) as connection:
        pointed = await patching.patch(
            connection,
            caller.tenant_id,
            job_id,
            change,
            resources.ring,
            if_version=versions,
            origin=origin_of(request, caller),
            quotas=resources.quotas,
        )
    if pointed is not None:
        resources.relay.send([Dispatch(pointed)])
    return (await resources.documents.read(caller.tenant_id, job_id)).response()


@router.delete(
    "/{job_id}",
    status_code=204,
    operation_id="delete_job",
    summary="Delete a finished job",
    response_description="It is gone, with its logs and artifacts.",
    responses=problem_docs(
        problems.JOB_NOT_FOUND, problems.JOB_STATE_CONFLICT, problems.INVALID_CONTENT
    ),
)
async def delete_job(
    request: Request, caller: JobWriter, resources: With, job_id: JobId
) -> Response:
    """Delete a job that has ended, with its history, logs and artifacts.

    Nobody can read it from then on. What it has in the object storage goes within seconds, or as
    soon as that is well again.
    """
    async with resources.writes.connection(caller.tenant_id) as connection:
        await commands.delete(
            connection, caller.tenant_id, job_id, origin=origin_of(request, caller)
        )
    return Response(status_code=204)
