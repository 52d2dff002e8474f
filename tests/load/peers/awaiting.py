"""For libraries of asyncio: sessions, the POST, and what a worker does."""

import uuid

from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from .models import Job, claim, finish
from .schemas import Submission
from .settings import sqlalchemy_url

engine = create_async_engine(sqlalchemy_url("asyncpg"), pool_size=20)
new_session = async_sessionmaker(engine, expire_on_commit=False)


async def store(submission: Submission) -> Job:
    """Commit a job, and give it back without reading it again."""
    async with new_session() as session:
        job = Job(type=submission.type, payload=submission.payload.model_dump())
        session.add(job)
        await session.commit()
        return job


async def run(job_id: uuid.UUID) -> None:
    """Claim it, echo, complete it with the result."""
    async with new_session() as session:
        claimed = (await session.execute(claim(job_id))).one_or_none()
        await session.commit()
        if claimed is None:
            return
        await session.execute(finish(job_id, claimed.attempt, {"text": claimed.payload["text"]}))
        await session.commit()
