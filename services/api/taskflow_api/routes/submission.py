"""POST /api/v1/jobs."""

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from taskflow.jobs.new_job import NewJob, Submission
from taskflow.jobs.schemas import JobRequest, JobView
from taskflow.jobs.views import job_path
from taskflow_api import problems
from taskflow_api.dependencies import IdempotencyKey, With
from taskflow_api.guards import JobWriter
from taskflow_api.intake import PATH, REFUSALS, Defaults, admit, idempotency_of, new_job
from taskflow_api.job_documents import MEDIA_TYPE
from taskflow_api.json_body import read_body
from taskflow_api.lean_route import LeanRoute
from taskflow_api.lifespan import Resources
from taskflow_api.problem_docs import headers_doc, json_body_doc, problem_docs
from taskflow_api.secret_fields import SecretFields
from taskflow_api.submission_answers import (
    SubmissionAnswer,
    answer_with_job,
    answer_with_twin,
)

router = APIRouter(tags=["jobs"], route_class=LeanRoute)

PROBLEMS = (
    problems.MALFORMED_BODY,
    problems.MALFORMED_HEADER,
    problems.REQUEST_TIMEOUT,
    problems.BODY_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.INVALID_CONTENT,
    problems.UNKNOWN_JOB_TYPE,
    problems.JOB_TYPE_NOT_ALLOWED,
    problems.IDEMPOTENCY_KEY_REUSED,
    problems.TOO_MANY_REQUESTS,
    problems.QUOTA_EXCEEDED,
)
"""What may be wrong with a submission, or with one of a batch."""

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
        **problem_docs(*PROBLEMS, problems.JOB_NOT_FOUND),
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
    tenant_id, ring = caller.tenant_id, resources.ring

    def as_job(defaults: Defaults) -> NewJob:
        idempotency = idempotency_of(wanted, ring, tenant_id=tenant_id, key=key)
        return new_job(wanted, defaults, ring, tenant_id=tenant_id, idempotency=idempotency)

    try:
        defaults = await admit(wanted, resources.job_type_rights, resources.job_types, tenant_id)
    except REFUSALS:
        job = as_job(Defaults())
        submission = await resources.submissions.find(job) if key else None
        if submission is None:
            raise
        secrets = await resources.job_types.secrets_of(tenant_id, job.type)
    else:
        secrets = defaults.secrets
        job = as_job(defaults)
        submission = await resources.submissions.submit(job, size_bytes=size_bytes)
    structlog.contextvars.bind_contextvars(job_id=str(submission.job_id))
    answer = await _answer_to(resources, job, submission, secrets)
    headers = {"Location": job_path(submission.job_id)}
    if answer.is_replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(answer.content, answer.status_code, headers, MEDIA_TYPE)


async def _answer_to(
    resources: Resources, job: NewJob, submission: Submission, secrets: SecretFields
) -> SubmissionAnswer:
    if not submission.is_deduplicated:
        return answer_with_job(job, submission, secrets)
    # One that was deleted since is a 404: nothing else that we know of it would be true.
    twin = await resources.job_rows.read(job.tenant_id, submission.job_id)
    return await answer_with_twin(resources, submission, twin)
