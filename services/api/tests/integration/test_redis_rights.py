"""A user in Redis with the rights that docs/operations.md names, and no others."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError
from structlog.testing import capture_logs

from taskflow.redis_client import open_redis
from taskflow_api.cache.cache import Cache
from taskflow_api.cache.seals import Seals
from taskflow_api.cache.store import CacheStore
from taskflow_api.rate_limits.bucket import Policy
from taskflow_api.rate_limits.shared_buckets import SharedBuckets
from taskflow_api.rate_limits.takes import Bucket, Take

PASSWORD = "secret"


@pytest.fixture
async def narrow_url(redis_url: str, checkout: Path) -> AsyncIterator[str]:
    """The address of the server for such a user."""
    page = (checkout / "docs" / "operations.md").read_text(encoding="utf-8")
    rule = re.search(r"^    (~taskflow:.*)$", page, re.MULTILINE)
    assert rule is not None
    name = f"narrow-{uuid4().hex[:12]}"
    async with Redis.from_url(redis_url) as admin:
        await run(admin, f"ACL SETUSER {name} on >{PASSWORD} {rule[1]}")
        parts = urlsplit(redis_url)
        netloc = f"{name}:{PASSWORD}@{parts.hostname}:{parts.port}"
        yield urlunsplit(parts._replace(netloc=netloc))
        await run(admin, f"ACL DELUSER {name}")


async def run(client: Any, command: str) -> None:
    await client.execute_command(*command.split())


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy elsewhere makes nobody do without Redis."""
    monkeypatch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 10.0)
    monkeypatch.setattr("taskflow_api.cache.store.ANSWER_SECONDS", 10.0)


async def test_they_are_enough_for_the_limits_and_the_cache(narrow_url: str) -> None:
    client = open_redis(narrow_url, timeout_seconds=1.0)
    buckets, store = SharedBuckets(client), CacheStore(client)
    sizes = {"max_bytes": 1_000, "room_bytes": 1_000_000}
    caches = [Cache(store, Seals("s" * 32), seconds=60.0, **sizes) for _ in range(2)]
    tenant_id, loads = uuid4(), 0

    async def load() -> bytes:
        nonlocal loads
        loads += 1
        return b"value"

    with capture_logs() as logged:
        take = Take([Bucket(Policy("default", 2, 3_600), str(tenant_id))], 1)
        assert [(await buckets.take(take)).granted for _ in range(3)] == [True, True, False]
        assert [await cache.get(tenant_id, "a", load) for cache in caches] == [b"value"] * 2
        assert await store._is_well()
    assert loads == 1
    assert logged == []
    for cache in caches:
        await cache.close()
    await buckets.close()
    await client.aclose()


async def test_they_are_for_nothing_else(narrow_url: str) -> None:
    async with Redis.from_url(narrow_url) as client:
        for command in ("GET other", "SET other 1", "FLUSHALL", "KEYS *", "CONFIG GET *"):
            with pytest.raises(NoPermissionError):
                await run(client, command)
