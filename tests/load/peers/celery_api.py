"""The POST: a row, then a message with its confirm, then 202. Both libraries block, so does it."""

from fastapi import FastAPI

from .blocking import store
from .celery_tasks import echo
from .models import Job
from .schemas import JobView, Submission

app = FastAPI()


@app.post("/jobs", status_code=202, response_model=JobView)
def submit(submission: Submission) -> Job:
    """Accept a job."""
    job = store(submission)
    echo.delay(str(job.id))
    return job
