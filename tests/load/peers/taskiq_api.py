"""The POST: a row, then a message with its confirm, then 202."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .awaiting import store
from .models import Job
from .schemas import JobView, Submission
from .taskiq_tasks import broker, echo


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The broker's connection."""
    await broker.startup()
    yield
    await broker.shutdown()


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202, response_model=JobView)
async def submit(submission: Submission) -> Job:
    """Accept a job."""
    job = await store(submission)
    await echo.kiq(str(job.id))
    return job
