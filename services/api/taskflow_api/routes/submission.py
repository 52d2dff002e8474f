"""POST /api/v1/jobs."""

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from taskflow.errors import InvalidContent, UnknownJobType
from taskflow.jobs.new_job import NewJob, Submission, SubmissionKind
from taskflow.jobs.schemas import JobRequest, JobView
from taskflow.jobs.views import accepted_view, job_links
from taskflow_api import problems
from taskflow_api.dependencies import IdempotencyKey, With
from taskflow_api.guards import JobWriter
from taskflow_api.intake import PATH, Defaults, defaults_for, new_job
from taskflow_api.job_documents import MEDIA_TYPE, dump, job_document
from taskflow_api.job_type_rights import JobTypeNotAllowed
from taskflow_api.json_body import read_body
from taskflow_api.lean_route import LeanRoute
from taskflow_api.lifespan import Resources
from taskflow_api.problem_docs import headers_doc, json_body_doc, problem_docs
from taskflow_api.routes.job import read_row
from taskflow_api.secret_fields import SecretFields

router = APIRouter(tags=["jobs"], route_class=LeanRoute)

_REPLAYED = (SubmissionKind.REPLAYED, SubmissionKind.REPLAYED_DEDUPLICATED)
_DEDUPLICATED = (SubmissionKind.DEDUPLICATED, SubmissionKind.REPLAYED_DEDUPLICATED)
_HEADERS = headers_doc(
    {
        "Location": "Where the job is read.",
        "Idempotent-Replayed": "`true`: this answer was given before, nothing was done now.",
    }
)


@router.post(
    PATH,
    status_code=202,
    response_model=JobView,
    operation_id="submit_job",
    summary="Submit a job",
    response_description="The job is committed; it will run.",
    responses={
        202: {"headers": _HEADERS},
        200: {
            "model": JobView,
            "description": "A live job has this `unique_key` already; here it is, with"
            " `deduplicated: true`.",
            "headers": _HEADERS,
        },
        **problem_docs(
            problems.MALFORMED_BODY,
            problems.MALFORMED_HEADER,
            problems.REQUEST_TIMEOUT,
            problems.BODY_TOO_LARGE,
            problems.UNSUPPORTED_MEDIA_TYPE,
            problems.INVALID_CONTENT,
            problems.UNKNOWN_JOB_TYPE,
            problems.JOB_TYPE_NOT_ALLOWED,
            problems.IDEMPOTENCY_KEY_REUSED,
            problems.JOB_NOT_FOUND,
            problems.TOO_MANY_REQUESTS,
            problems.QUOTA_EXCEEDED,
        ),
    },
    openapi_extra=json_body_doc(JobRequest),
)
async def submit_job(
    request: Request, caller: JobWriter, resources: With, key: IdempotencyKey
) -> Response:
    """A 202 means that the job is committed: it will run, whatever stops or fails from then on.

    With an `Idempotency-Key` the request can be repeated safely: the same key and content give the
    first answer again.
    """
    wanted = await read_body(request, JobRequest)
    size_bytes = len(await request.body())

    def as_job(defaults: Defaults) -> NewJob:
        return new_job(
            wanted, defaults, resources.ring, tenant_id=caller.tenant_id, idempotency_key=key
        )

    try:
        await resources.job_type_rights.require(caller.tenant_id, wanted.type)
        await resources.job_type_rights.require_attempts(caller.tenant_id, wanted.max_attempts)
        defaults = await defaults_for(wanted, resources.job_types, caller.tenant_id)
    except (InvalidContent, UnknownJobType, JobTypeNotAllowed):
        # It may have been accepted before its times ran out, or its type or the settings changed.
        job = as_job(Defaults())
        submission = await resources.submissions.find(job) if key else None
        if submission is None:
            raise
        secrets = await resources.job_types.secrets_of(caller.tenant_id, job.type)
    else:
        secrets = defaults.secrets
        job = as_job(defaults)
        submission = await resources.submissions.submit(job, size_bytes=size_bytes)
    structlog.contextvars.bind_contextvars(job_id=str(submission.job_id))
    return await _answer(resources, job, submission, secrets)


async def _answer(
    resources: Resources, job: NewJob, submission: Submission, secrets: SecretFields
) -> Response:
    headers = {"Location": job_links(submission.job_id).self}
    if submission.kind in _REPLAYED:
        headers["Idempotent-Replayed"] = "true"
    if submission.kind not in _DEDUPLICATED:
        return Response(
            dump(secrets.shown(accepted_view(job, submission))), 202, headers, MEDIA_TYPE
        )
    # A twin that was deleted since is a 404: nothing else that we know of it would be true.
    row = await read_row(resources, job.tenant_id, submission.job_id)
    # The live job may be of another type.
    secrets = await resources.job_types.secrets_of(job.tenant_id, row["type"])
    document = job_document(row, secrets, resources.ring, deduplicated=True)
    return Response(document.content, 200, headers, MEDIA_TYPE)
