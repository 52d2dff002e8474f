"""For libraries that block: sessions, the POST, and what a worker does."""

import uuid
from collections.abc import Callable

from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from .models import Job, claim, finish
from .schemas import Submission
from .settings import sqlalchemy_url

# As many as FastAPI has threads for functions that block.
engine = create_engine(sqlalchemy_url("psycopg"), pool_size=40)
new_session: Callable[[], Session] = sessionmaker(engine, expire_on_commit=False)


def store(submission: Submission) -> Job:
    """Commit a job, and give it back without reading it again."""
    with new_session() as session:
        job = Job(type=submission.type, payload=submission.payload.model_dump())
        session.add(job)
        session.commit()
        return job


def run(job_id: uuid.UUID) -> None:
    """Claim it, echo, complete it with the result."""
    with new_session() as session:
        claimed = session.execute(claim(job_id)).one_or_none()
        session.commit()
        if claimed is None:
            return
        session.execute(finish(job_id, claimed.attempt, {"text": claimed.payload["text"]}))
        session.commit()
