import aio_pika
import asyncpg
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.message import decode, encode
from taskflow.doctor import invariants
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow_bench.more.filling import fill
from taskflow_testing.jobs import Jobs, idempotency

LANE = Lane("default", Priority.MEDIUM)
COPIES = 250


async def test_copies_are_what_submissions_leave(clean_database: str, amqp_url: str) -> None:
    connection = await asyncpg.connect(clean_database)
    broker = await aio_pika.connect(amqp_url)
    try:
        model = await Jobs(connection).submit(id=uuid7(), idempotency=idempotency("model"))
        pointer_at = await connection.fetchval("SELECT pointer_at FROM jobs")
        channel = await broker.channel()
        await topology.declare(channel)
        await topology.declare_lane(channel, LANE)
        queue = await channel.get_queue(topology.lane_queue(LANE))
        # Other tests use this lane as well, and leave pointers in it.
        await queue.purge()
        exchange = await channel.get_exchange(topology.JOBS_EXCHANGE)
        await exchange.publish(encode(Pointer(model, LANE, "echo", pointer_at)), LANE.key)

        await fill(clean_database, amqp_url, model, COPIES)

        for table in ("jobs", "job_events", "idempotency_keys"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == COPIES + 1
        found = await invariants.run(
            connection, invariants=[each for each in invariants.load().values() if not each.need]
        )
        assert [each.invariant.name for each in found if not each.holds] == []
        pointers = {}
        while (message := await queue.get(fail=False)) is not None:
            pointer = decode(message.body, message.headers)
            pointers[pointer.job_id] = pointer.pointer_at
            await message.ack()
        rows = await connection.fetch("SELECT id, pointer_at FROM jobs WHERE id <> $1", model)
        copies = {row["id"]: row["pointer_at"] for row in rows}
        assert {job_id: at for job_id, at in pointers.items() if job_id in copies} == copies
    finally:
        await broker.close()
        await connection.close()
