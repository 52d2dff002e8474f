"""What routes ask for."""

from typing import Annotated
from uuid import UUID

import structlog
from fastapi import Depends, Path, Request

from taskflow_api.lifespan import Resources
from taskflow_api.request_headers import idempotency_key, wait_seconds


async def resources(request: Request) -> Resources:
    """What lives as long as the process."""
    found: Resources = request.app.state.resources
    return found


async def job_id(
    job_id: Annotated[
        UUID, Path(description="A job's id.", examples=["0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4a"])
    ],
) -> UUID:
    """The job in the path, named in every log line of the request."""
    structlog.contextvars.bind_contextvars(job_id=str(job_id))
    return job_id


ApiKeyId = Annotated[
    UUID,
    Path(
        alias="api_key_id",
        description="A key's id.",
        examples=["0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4c"],
    ),
]
With = Annotated[Resources, Depends(resources)]
JobId = Annotated[UUID, Depends(job_id)]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
WaitSeconds = Annotated[int | None, Depends(wait_seconds)]
