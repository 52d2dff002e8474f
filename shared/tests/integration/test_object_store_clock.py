"""A host whose clock is wrong: S3 refuses a signature that is 15 minutes off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from taskflow.object_store import ObjectStore
from taskflow_testing.clients import open_store
from taskflow_testing.object_store import TestBucket


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


@pytest.fixture
def key() -> str:
    return f"test/{uuid4()}"


@pytest.mark.parametrize("hours", [1, -1], ids=["fast", "slow"])
async def test_a_host_whose_clock_is_wrong_signs_with_the_servers_time(
    s3: TestBucket, key: str, hours: int
) -> None:
    keys = [f"{key}/{n}" for n in range(8)]
    async with open_store(
        s3, host_clock=lambda: datetime.now(UTC) + timedelta(hours=hours)
    ) as store:
        with capture_logs() as logs:
            # Several are refused at once, and all of them are sent again.
            await asyncio.gather(*(store.put(each, b"x") for each in keys))
            assert await asyncio.gather(*map(store.get, keys)) == [b"x"] * len(keys)
            await store.ping()
    assert [each["event"] for each in logs] == ["clock_skewed"]
    assert abs(logs[0]["host_ahead_seconds"] - hours * 3600) <= 5


@pytest.mark.parametrize("first", ["get", "size", "ping", "delete"])
async def test_whatever_is_asked_first_the_clock_is_learned(
    s3: TestBucket, store: ObjectStore, key: str, first: str
) -> None:
    await store.put(key, b"x")
    async with open_store(s3, host_clock=lambda: datetime.now(UTC) + timedelta(hours=1)) as skewed:
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: skewed.get(key),
            "size": lambda: skewed.size(key),
            "ping": skewed.ping,
            "delete": lambda: skewed.delete([key]),
        }
        await asked[first]()


async def test_a_clock_that_is_put_right_is_followed(s3: TestBucket, key: str) -> None:
    ahead = timedelta(hours=1)
    async with open_store(s3, host_clock=lambda: datetime.now(UTC) + ahead) as store:
        with capture_logs() as logs:
            await store.put(key, b"x")
            ahead = timedelta(0)
            assert await store.get(key) == b"x"
            assert await store.get(key) == b"x"
            ahead = timedelta(minutes=-20)
            assert await store.get(key) == b"x"
    assert [each["event"] for each in logs] == ["clock_skewed", "clock_right_again", "clock_skewed"]
