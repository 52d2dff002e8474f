"""POST /api/v1/jobs/batch."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from taskflow.errors import JobNotFound, ServiceUnavailable, TaskFlowError
from taskflow.jobs.new_job import Submission
from taskflow_api.batch_schemas import BatchEnvelope, BatchRequest, BatchView
from taskflow_api.batches import (
    BATCH_PATH,
    Item,
    Refusal,
    Spells,
    submit_each,
    submit_together,
    take_in,
)
from taskflow_api.dependencies import IdempotencyKey, With
from taskflow_api.error_answers import problem_of
from taskflow_api.guards import JobWriter
from taskflow_api.job_documents import MEDIA_TYPE
from taskflow_api.json_body import read_body
from taskflow_api.lean_route import LeanRoute
from taskflow_api.lifespan import Resources
from taskflow_api.problem_docs import headers_doc, json_body_doc, problem_docs
from taskflow_api.problems import (
    ProblemError,
    ProblemKind,
    item_problem,
    pointer_to,
    problem_response,
)
from taskflow_api.rate_limits.charge import charge_batch
from taskflow_api.routes.submission import PROBLEMS
from taskflow_api.submission_answers import (
    SubmissionAnswer,
    Twins,
    answer_with_job,
    answer_with_twin,
)
from taskflow_api.validation_problems import MAX_ERRORS

router = APIRouter(tags=["jobs"], route_class=LeanRoute)

PIECE_BYTES = 64 * 1024
"""An answer goes out in pieces of about this size: a live job that a `unique_key` finds may be as
large as a whole request."""

LEVELS_AROUND_A_JOB = 2
"""Levels of nesting that a job alone doesn't have."""

log = structlog.get_logger(__name__)

_HEADERS = headers_doc(
    {"Idempotent-Replayed": "`true`: all its jobs were accepted before, nothing was done now."}
)


@router.post(
    BATCH_PATH,
    status_code=202,
    response_model=BatchView,
    operation_id="submit_batch",
    summary="Submit many jobs",
    response_description="What became of each job, in their order.",
    responses={
        202: {"headers": _HEADERS},
        **problem_docs(*PROBLEMS),
    },
    openapi_extra=json_body_doc(BatchRequest),
)
async def submit_batch(
    request: Request, caller: JobWriter, resources: With, key: IdempotencyKey
) -> Response:
    """Each job is accepted or refused as if it came alone: a 202 says that `items` tells which.

    With `atomic` all are committed in one transaction, or none: then the answer is one problem,
    whose `errors` point at the jobs. Such jobs have neither `unique_key` nor `depends_on`. No job
    of a batch can depend on another one of it.

    With an `Idempotency-Key` the batch can be repeated safely: the same key and content give the
    first answer's jobs again, and what was refused is tried again.
    """
    wanted = await read_body(request, BatchEnvelope, around=LEVELS_AROUND_A_JOB)
    structlog.contextvars.bind_contextvars(batch_jobs=len(wanted.jobs))
    await charge_batch(request, caller, len(wanted.jobs))
    items = await take_in(resources, caller.tenant_id, wanted, key)
    if wanted.atomic:
        await submit_together(resources, items)
        refusals = _refusals(items)
        if refusals:
            return _refuse_all(request, refusals, len(items))
    else:
        await submit_each(resources, items, size_bytes=len(await request.body()))
        _raise_if_away(items)
    return _answer(resources, caller.tenant_id, items)


def _refusals(items: Sequence[Item]) -> list[tuple[int, Refusal]]:
    found = ((index, item.refusal) for index, item in enumerate(items))
    return [(index, refusal) for index, refusal in found if refusal is not None]


def _refuse_all(request: Request, refusals: Sequence[tuple[int, Refusal]], jobs: int) -> Response:
    """One problem, of the kind of the first; it points at all of them, up to its length."""
    kind, members = _described(*refusals[0])
    pointed = [error for refusal in refusals for error in _described(*refusal)[1]["errors"]]
    detail = f"{len(refusals)} of {jobs} jobs are refused, so that none is accepted."
    members |= {"detail": f"{detail} {members['detail']}", "errors": pointed[:MAX_ERRORS]}
    return problem_response(request.scope, kind, **members)


def _raise_if_away(items: Sequence[Item]) -> None:
    """Where nothing is accepted for want of a server, that is the answer to the whole."""
    away = [item.outcome for item in items if isinstance(item.outcome, ServiceUnavailable)]
    if not away:
        return
    if not any(isinstance(item.outcome, Submission) for item in items):
        raise away[0]
    log.warning("batch_partly_unavailable", jobs=len(away), error=str(away[0]))


def _answer(resources: Resources, tenant_id: UUID, items: Sequence[Item]) -> Response:
    accepted = [item.outcome for item in items if isinstance(item.outcome, Submission)]
    structlog.contextvars.bind_contextvars(batch_accepted=len(accepted))
    headers = {}
    if accepted and all(submission.is_replayed for submission in accepted):
        headers["Idempotent-Replayed"] = "true"
    twins = Twins(resources.job_rows, tenant_id, accepted)
    return StreamingResponse(_shown(resources, items, twins), 202, headers, MEDIA_TYPE)


async def _shown(resources: Resources, items: Sequence[Item], twins: Twins) -> AsyncIterator[bytes]:
    """A `BatchView` in pieces."""
    spells = Spells()
    accepted = 0
    piece = bytearray(b'{"items":[')
    for index, item in enumerate(items):
        await spells.next_job()
        answer = await _answer_to(resources, item, twins)
        piece += b"," if index else b""
        if isinstance(answer, SubmissionAnswer):
            accepted += 1
            piece += _accepted(answer)
        else:
            piece += _refused(index, answer)
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    piece += b'],"accepted":%d,"refused":%d}' % (accepted, len(items) - accepted)
    yield bytes(piece)


async def _answer_to(resources: Resources, item: Item, twins: Twins) -> SubmissionAnswer | Refusal:
    outcome = item.outcome
    if isinstance(outcome, TaskFlowError | ProblemError):
        return outcome
    assert item.job is not None  # noqa: S101 - only a refusal has none
    assert outcome is not None  # noqa: S101 - each has been submitted by now
    if not outcome.is_deduplicated:
        return answer_with_job(item.job, outcome, item.secrets)
    try:
        return await answer_with_twin(resources, outcome, await twins.row_for(outcome))
    except (JobNotFound, ServiceUnavailable) as error:
        return error


def _accepted(answer: SubmissionAnswer) -> bytes:
    """The item's JSON, put together from its job's, which is not parsed for it."""
    replayed = b"true" if answer.is_replayed else b"false"
    parts = (answer.status_code, replayed, answer.content)
    return b'{"status":%d,"replayed":%s,"job":%s}' % parts


def _refused(index: int, error: Refusal) -> bytes:
    kind, members = _described(index, error)
    headers = members.pop("headers", None) or {}
    if "Retry-After" in headers:
        members["retry_after_seconds"] = int(headers["Retry-After"])
    problem = item_problem(kind, **members).model_dump_json().encode()
    return b'{"status":%d,"problem":%s}' % (kind.status, problem)


def _described(index: int, error: Refusal) -> tuple[ProblemKind, dict[str, Any]]:
    """The kind of problem and what is said of it; `errors` point into the batch."""
    members: dict[str, Any]
    if isinstance(error, ProblemError):
        kind, members = error.kind, {"detail": error.detail, "errors": error.errors}
    else:
        kind, members = problem_of(error)
    at = pointer_to("jobs", index)
    errors = [(at + pointer, detail) for pointer, detail in members.get("errors", ())]
    return kind, members | {"errors": errors or [(at, members["detail"])]}
