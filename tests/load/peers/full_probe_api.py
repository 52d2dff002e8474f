"""The POST at its least: what has come meanwhile is one insert and one piece of messages."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiormq
import asyncpg
from fastapi import FastAPI, Request

from .full_probe_publisher import Publisher, declare
from .schemas import Accepted, Submission
from .settings import AMQP_URL, DATABASE_URL

_BATCH = 200
_WRITERS = 2
_INSERT = """
INSERT INTO jobs (id, type, payload)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::jsonb[])
"""


@dataclass(slots=True)
class _Waiting:
    job_id: uuid.UUID
    type: str
    payload: str
    accepted: asyncio.Future[None]


class Intake:
    """Group commit: while one batch is written and confirmed, the next one collects."""

    def __init__(self, pool: asyncpg.Pool, publisher: Publisher) -> None:
        self._pool = pool
        self._publisher = publisher
        self._waiting: list[_Waiting] = []
        self._writers: set[asyncio.Task[None]] = set()

    async def accept(self, type_: str, payload: str) -> uuid.UUID:
        """Return when the job is committed and its message confirmed."""
        job_id = uuid.uuid4()
        accepted = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(job_id, type_, payload, accepted))
        if len(self._writers) < _WRITERS:
            writer = asyncio.create_task(self._write_batches())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        await accepted
        return job_id

    async def _write_batches(self) -> None:
        while batch := self._waiting[:_BATCH]:
            del self._waiting[: len(batch)]
            try:
                ids = [each.job_id for each in batch]
                types, payloads = [each.type for each in batch], [each.payload for each in batch]
                await self._pool.execute(_INSERT, ids, types, payloads)
                await self._publisher.publish([job_id.bytes for job_id in ids])
            except Exception as error:  # noqa: BLE001 - each caller's to answer
                for each in batch:
                    each.accepted.set_exception(error)
            else:
                for each in batch:
                    each.accepted.set_result(None)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """A connection for each writer, and a channel with confirms."""
    connection = await aiormq.connect(AMQP_URL)
    channel = await connection.channel(publisher_confirms=True)
    await declare(channel)
    async with asyncpg.create_pool(DATABASE_URL, min_size=_WRITERS, max_size=_WRITERS) as pool:
        app.state.intake = Intake(pool, Publisher(channel))
        yield
    await connection.close()


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def submit(submission: Submission, request: Request) -> Accepted:
    """Accept a job."""
    intake: Intake = request.app.state.intake
    payload = json.dumps(submission.payload.model_dump())
    job_id = await intake.accept(submission.type, payload)
    return Accepted(id=job_id, type=submission.type, payload=submission.payload)
