"""Whether the service lives, is ready, and what it stands on. Open to everybody."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from taskflow_api import problems
from taskflow_api.dependencies import With
from taskflow_api.health import Health
from taskflow_api.problem_docs import problem_docs
from taskflow_api.problems import problem_response

router = APIRouter(tags=["health"])


class Status(BaseModel):
    """It is well."""

    status: Literal["ok"] = "ok"


@router.get(
    "/healthz",
    response_model=Status,
    operation_id="is_alive",
    summary="Is the process alive?",
    responses=problem_docs(public=True),
)
async def is_alive() -> Status:
    """200 as long as the process answers at all."""
    return Status()


@router.get(
    "/readyz",
    response_model=Status,
    operation_id="is_ready",
    summary="Can requests be sent here?",
    responses=problem_docs(problems.SERVICE_UNAVAILABLE, public=True),
)
async def is_ready(resources: With) -> Status:
    """200 while PostgreSQL answers with the tables that this code needs.

    RabbitMQ, Redis and the object storage may be away: submissions are accepted all the same.
    """
    await resources.health.require_database()
    return Status()


@router.get(
    "/api/v1/health",
    response_model=Health,
    operation_id="get_health",
    summary="What the service stands on",
    responses=problem_docs(problems.SERVICE_UNAVAILABLE, public=True),
)
async def get_health(request: Request, resources: With) -> Response:
    """Each server behind this one, asked now: 200 while PostgreSQL is well.

    When it is not, the problem names the `dependencies` in the same form.
    """
    health = await resources.health.check()
    if health.status == "down":
        return problem_response(
            request.scope,
            problems.SERVICE_UNAVAILABLE,
            "PostgreSQL is not available at the moment.",
            headers={"Retry-After": "5"},
            dependencies=health.dependencies,
        )
    return JSONResponse(health.model_dump())
