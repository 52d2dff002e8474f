"""The invariants, held against everything that a scenario has seen when it is over."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
from minio import Minio

from taskflow.doctor import dead_messages
from taskflow.doctor.dead_messages import DeadMessage
from taskflow.doctor.invariants import Evidence, Finding, run
from taskflow_chaos.client import Accepted
from taskflow_chaos.cluster import Cluster
from taskflow_chaos.effects import Effect, read_effects
from taskflow_testing.own_servers import ServerSet

_SHOWN = 3
_MOST_DEAD_MESSAGES = 20_000
_CONNECT_SECONDS = 60.0

_TABLES = (
    ("public", "jobs"),
    ("public", "job_events"),
    ("public", "job_attempts"),
    ("public", "workers"),
    ("chaos", "accepted"),
    ("chaos", "effects"),
    ("chaos", "starts"),
)

_VIEWS = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.accepted (
    job_id uuid NOT NULL, idempotency_key text NOT NULL, accepted_at timestamptz NOT NULL
);
CREATE TABLE chaos.effects (
    job_id uuid NOT NULL, attempt int NOT NULL, worker_pid int NOT NULL, at timestamptz NOT NULL
);
CREATE TABLE chaos.starts (LIKE chaos.effects);
"""


async def verify(cluster: Cluster, accepted: Sequence[Accepted]) -> list[Finding]:
    """What became of each invariant. Call it when all jobs have ended and the services as well."""
    effects = await asyncio.to_thread(read_effects, cluster.effects_folder)
    dead = await _dead_messages(cluster.rabbitmq.url)
    connection = await cluster.connect()
    try:
        await load_views(connection, accepted, effects)
        await _keep_tables(connection, cluster.folder / "tables")
        objects = await _stored_objects(connection, cluster.servers)
        evidence = Evidence(quiet=True, dead_messages=dead, stored_objects=objects)
        return await run(connection, evidence=evidence)
    finally:
        await connection.close()


def complaint(finding: Finding) -> str | None:
    """What is wrong with an invariant in one line; None: it holds. One that was skipped doesn't."""
    if finding.holds:
        return None
    name = finding.invariant.name
    if not finding.violations:
        return f"{name} was not looked at: {finding.unanswered or 'something it needs is missing'}"
    shown = "; ".join(f"{each.job_id} {each.problem}" for each in finding.violations[:_SHOWN])
    return f"{name} is violated {finding.count} times: {shown}"


async def load_views(
    connection: asyncpg.Connection, accepted: Sequence[Accepted], effects: Sequence[Effect]
) -> None:
    """Write what the client and the handlers saw into the schema `chaos`.

    What was done goes to `effects`, what was begun to `starts`.
    """
    await connection.execute(_VIEWS)
    await connection.executemany(
        "INSERT INTO chaos.accepted VALUES ($1, $2, to_timestamp($3))",
        [(each.job_id, each.key, each.at) for each in accepted],
    )
    for table, what in (("effects", "done"), ("starts", "began")):
        await connection.executemany(
            f"INSERT INTO chaos.{table} VALUES ($1, $2, $3, to_timestamp($4))",
            [
                (each.job_id, each.attempt, each.pid, each.at)
                for each in effects
                if each.what == what
            ],
        )


async def _keep_tables(connection: asyncpg.Connection, folder: Path) -> None:
    """What the database held, as CSV: to look at when something does not hold."""
    folder.mkdir()
    for schema, name in _TABLES:
        await connection.copy_from_table(
            name, schema_name=schema, output=folder / f"{name}.csv", format="csv", header=True
        )


async def _dead_messages(amqp_url: str) -> Sequence[DeadMessage]:
    connection = await aio_pika.connect(amqp_url, timeout=_CONNECT_SECONDS)
    async with connection:
        return await dead_messages.peek(await connection.channel(), limit=_MOST_DEAD_MESSAGES)


async def _stored_objects(
    connection: asyncpg.Connection, servers: ServerSet
) -> Mapping[str, int | None]:
    """The size of each object that the database names, None for what is missing."""
    rows = await connection.fetch(
        "SELECT object_key FROM log_chunks"
        " UNION SELECT result_object FROM jobs WHERE result_object IS NOT NULL"
    )
    stored = await asyncio.to_thread(_sizes, servers)
    return {row["object_key"]: stored.get(row["object_key"]) for row in rows}


def _sizes(servers: ServerSet) -> dict[str, int]:
    client = Minio(
        endpoint=urlsplit(servers.s3.url).netloc,
        access_key=servers.s3_access_key,
        secret_key=servers.s3_secret_key,
        secure=False,
        region="us-east-1",
    )
    listed = client.list_objects(bucket_name=servers.s3_bucket, recursive=True)
    return {
        item.object_name: item.size
        for item in listed
        if item.object_name is not None and item.size is not None
    }
