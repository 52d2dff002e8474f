"""The POST: a row in Procrastinate's table, then 202."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .procrastinate_tasks import app as jobs
from .procrastinate_tasks import echo
from .schemas import Deferred, Submission


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The database's connections."""
    async with jobs.open_async():
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def submit(submission: Submission) -> Deferred:
    """Accept a job."""
    job_id = await echo.defer_async(text=submission.payload.text)
    return Deferred(id=job_id, type=submission.type, payload=submission.payload)
