"""The POST without an ORM: an insert, a message with its confirm, then 202."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import asyncpg
from fastapi import FastAPI, Request

from .lean_probe_servers import declare, open_pool
from .schemas import Accepted, Submission
from .settings import AMQP_URL, QUEUE

_INSERT = "INSERT INTO jobs (id, type, payload) VALUES ($1, $2, $3)"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """A pool and a channel with confirms."""
    async with open_pool() as pool, await aio_pika.connect_robust(AMQP_URL) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await declare(channel)
        app.state.pool, app.state.exchange = pool, channel.default_exchange
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def submit(submission: Submission, request: Request) -> Accepted:
    """Accept a job."""
    pool: asyncpg.Pool = request.app.state.pool
    job_id = uuid.uuid4()
    payload = submission.payload.model_dump()
    await pool.execute(_INSERT, job_id, submission.type, json.dumps(payload))
    message = aio_pika.Message(job_id.bytes, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await request.app.state.exchange.publish(message, routing_key=QUEUE)
    return Accepted(id=job_id, type=submission.type, payload=submission.payload)
