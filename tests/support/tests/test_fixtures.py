"""The fixtures against the servers they stand on."""

from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest
import redis
from minio import Minio

from taskflow_testing.database import empty_tables
from taskflow_testing.errors import NoTestServers
from taskflow_testing.object_store import TestBucket
from taskflow_testing.servers import TestServers, find_servers, require_reachable


async def test_database_has_the_migrations(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
    finally:
        await connection.close()


async def test_emptying_keeps_the_tables_and_the_migrations(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE TABLE left_behind (id int GENERATED ALWAYS AS IDENTITY)")
        await connection.execute("INSERT INTO left_behind DEFAULT VALUES")
        await empty_tables(database_url)
        await connection.execute("INSERT INTO left_behind DEFAULT VALUES")
        assert await connection.fetchval("SELECT array_agg(id) FROM left_behind") == [1]
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
    finally:
        await connection.execute("DROP TABLE IF EXISTS left_behind")
        await connection.close()


async def test_clean_database_is_the_workers_database(
    clean_database: str, database_url: str
) -> None:
    assert clean_database == database_url


async def test_virtual_host_takes_queues(amqp_url: str) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(
            "probe", durable=True, arguments={"x-queue-type": "quorum"}
        )
        assert queue.declaration_result.message_count == 0


def test_bucket_takes_objects(s3: TestBucket) -> None:
    parts = urlsplit(s3.endpoint)
    client = Minio(
        endpoint=parts.netloc, access_key=s3.access_key, secret_key=s3.secret_key, secure=False
    )
    assert client.bucket_exists(bucket_name=s3.bucket)


def test_redis_database_is_this_workers_own(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("probe", "1")
        assert client.get("probe") == b"1"


def test_missing_servers_are_named_with_the_way_to_start_them(tmp_path: Path) -> None:
    with pytest.raises(NoTestServers, match=r"TASKFLOW_TEST_DATABASE_URL.*make test-up"):
        find_servers(tmp_path, {})


def test_variables_win_over_the_running_stack(tmp_path: Path, servers: TestServers) -> None:
    folder = tmp_path / ".taskflow" / "test"
    folder.mkdir(parents=True)
    names = [field.name.upper() for field in fields(TestServers)]
    (folder / "env").write_text("".join(f"TASKFLOW_TEST_{name}=file\n" for name in names))
    found = find_servers(tmp_path, {"TASKFLOW_TEST_REDIS_URL": servers.redis_url})
    assert found.redis_url == servers.redis_url
    assert found.amqp_url == "file"


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(NoTestServers, match=r"Redis for tests does not answer at 127\.0\.0\.1:1 "):
        require_reachable("Redis", "redis://:secret@127.0.0.1:1/0")
