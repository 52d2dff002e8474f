"""The object store against a real S3, well and unwell."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from taskflow.errors import ObjectMissing, ServiceUnavailable
from taskflow.object_store import ObjectStore
from taskflow_testing.clients import open_store
from taskflow_testing.object_store import TestBucket, delete_bucket
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


@pytest.fixture
async def proxy(s3: TestBucket) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
async def shaky(s3: TestBucket, proxy: TcpProxy) -> AsyncIterator[ObjectStore]:
    """The store through the proxy, with little patience."""
    async with open_store(s3, endpoint=proxy.url, timeout_seconds=0.5, max_connections=2) as store:
        yield store
        proxy.thaw()


@pytest.fixture
def key() -> str:
    return f"test/{uuid4()}"


async def test_an_object_is_read_back_whole_and_in_part(store: ObjectStore, key: str) -> None:
    await store.put(key, b"0123456789")
    assert await store.get(key) == b"0123456789"
    assert await store.get(key, 3, 4) == b"3456"
    assert await store.get(key, 0, 1) == b"0"
    assert await store.get(key, 8) == b"89"
    assert await store.get(key, 8, 100) == b"89"
    assert await store.get(key, 5, 0) == b""
    assert await store.size(key) == 10


async def test_an_empty_object_is_an_object(store: ObjectStore, key: str) -> None:
    await store.put(key, b"")
    assert await store.get(key) == b""
    assert await store.exists(key)


async def test_a_large_object_arrives_whole(store: ObjectStore, key: str) -> None:
    data = os.urandom(12 * 1024 * 1024)
    await store.put(key, data)
    assert await store.get(key) == data
    assert await store.get(key, 7_000_000, 10) == data[7_000_000:7_000_010]


async def test_the_last_write_wins(store: ObjectStore, key: str) -> None:
    await store.put(key, b"longer than the second")
    await store.put(key, b"second")
    assert await store.get(key) == b"second"


async def test_what_is_missing_is_said_to_be_missing(store: ObjectStore, key: str) -> None:
    with pytest.raises(ObjectMissing, match=key):
        await store.get(key)
    with pytest.raises(ObjectMissing):
        await store.get(key, 2, 5)
    with pytest.raises(ObjectMissing):
        await store.size(key)
    await store.put(f"{key}-short", b"0123456789")
    with pytest.raises(ObjectMissing):
        await store.get(f"{key}-short", 20, 5)
    assert not await store.exists(key)


async def test_files_go_there_and_come_back(store: ObjectStore, key: str, tmp_path: Path) -> None:
    data = os.urandom(6 * 1024 * 1024)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    await store.upload(key, source)
    await store.download(key, target)
    assert target.read_bytes() == data


async def test_a_failed_download_leaves_the_file_as_it_was(
    store: ObjectStore, key: str, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    with pytest.raises(ObjectMissing):
        await store.download(key, target)
    assert target.read_text() == "before"
    assert not target.with_name("target.partial").exists()


async def test_delete_takes_what_is_there_and_minds_nothing_that_is_not(
    store: ObjectStore, key: str
) -> None:
    await store.put(key, b"x")
    await store.put(f"{key}-kept", b"x")
    await store.delete([key, f"{key}-never-was"])
    await store.delete([])
    assert not await store.exists(key)
    assert await store.exists(f"{key}-kept")


async def test_delete_prefix_takes_everything_below_and_nothing_beside(
    store: ObjectStore, key: str
) -> None:
    for name in (f"{key}/a", f"{key}/b/c", f"{key}-beside"):
        await store.put(name, b"x")
    await store.delete_prefix(f"{key}/")
    assert not await store.exists(f"{key}/a")
    assert not await store.exists(f"{key}/b/c")
    assert await store.exists(f"{key}-beside")
    await store.delete_prefix(f"{key}/")


@pytest.mark.parametrize("prefix", ["", "/", "logs"])
async def test_delete_prefix_refuses_what_could_empty_the_bucket(
    store: ObjectStore, prefix: str
) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        await store.delete_prefix(prefix)


async def test_ping_passes_when_the_bucket_is_there(store: ObjectStore) -> None:
    await store.ping()


async def test_ping_names_a_missing_bucket_until_it_is_ensured(s3: TestBucket) -> None:
    bucket = f"taskflow-test-{uuid4().hex[:12]}"
    async with open_store(s3, bucket=bucket) as store:
        with pytest.raises(ServiceUnavailable, match=bucket):
            await store.ping()
        await asyncio.gather(*(store.ensure_bucket() for _ in range(5)))
        await store.ping()
        delete_bucket(replace(s3, bucket=bucket))


async def test_a_wrong_key_is_named(s3: TestBucket, key: str) -> None:
    async with open_store(s3, secret_key="not the secret at all") as store:
        with pytest.raises(ServiceUnavailable, match=r"SignatureDoesNotMatch|AccessDenied"):
            await store.put(key, b"x")
        with pytest.raises(ServiceUnavailable, match="AccessDenied"):
            await store.ping()


async def test_a_server_that_is_down_is_unavailable_until_it_is_back(
    shaky: ObjectStore, proxy: TcpProxy, key: str
) -> None:
    proxy.go_down()
    for attempt in (shaky.put(key, b"x"), shaky.get(key), shaky.delete([key]), shaky.ping()):
        with pytest.raises(ServiceUnavailable):
            await attempt
    proxy.come_back()
    await shaky.put(key, b"x")
    assert await shaky.get(key) == b"x"
    await shaky.ping()


async def test_nothing_waits_long_for_a_server_that_is_frozen(
    shaky: ObjectStore, proxy: TcpProxy, key: str
) -> None:
    await shaky.put(key, b"x")
    proxy.freeze()
    begin = time.monotonic()
    calls = [shaky.get(key) for _ in range(6)]
    outcomes = await asyncio.gather(*calls, shaky.ping(), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {ServiceUnavailable}
    # Some could not get one of the two connections, and did not queue for ever.
    assert any("busy" in str(outcome) for outcome in outcomes)
    assert time.monotonic() - begin < 5


async def test_a_caller_that_gives_up_does_not_free_the_thread_before_its_time(
    shaky: ObjectStore, proxy: TcpProxy, key: str
) -> None:
    await shaky.put(key, b"x")
    proxy.freeze()
    calls = [asyncio.create_task(shaky.get(key)) for _ in range(2)]
    await asyncio.wait(calls, timeout=0.05)
    assert shaky._slots.locked()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert shaky._slots.locked()
    proxy.thaw()
    assert await shaky.get(key) == b"x"


async def test_an_answer_that_is_cut_short_is_never_taken_for_the_object(
    shaky: ObjectStore, proxy: TcpProxy, key: str
) -> None:
    data = os.urandom(1_000_000)
    await shaky.put(key, data)
    proxy.cut()
    proxy.answer_limit_bytes = 200_000
    with pytest.raises(ServiceUnavailable):
        await shaky.get(key)
    proxy.answer_limit_bytes = None
    assert await shaky.get(key) == data


async def test_an_answer_that_trickles_is_not_waited_for_to_its_end(
    s3: TestBucket, proxy: TcpProxy, key: str
) -> None:
    async with open_store(s3, endpoint=proxy.url, timeout_seconds=0.5) as store:
        await store.put(key, os.urandom(2_000_000))
        # Each piece is in time; all of them take 15 times as long as that.
        proxy.answer_delay_seconds = 0.25
        began_at = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="no whole answer"):
            await store.get(key)
        assert time.monotonic() - began_at < 2
        proxy.answer_delay_seconds = 0


async def test_an_answer_given_up_half_way_gives_its_connection_back(
    s3: TestBucket, proxy: TcpProxy, key: str
) -> None:
    async with open_store(s3, endpoint=proxy.url) as store:
        await store.put(key, os.urandom(2_000_000))
        proxy.answer_delay_seconds = 0.25
        with pytest.raises(ServiceUnavailable, match="takes too long") as kept:
            await asyncio.to_thread(store._bucket.get, key, 0, 0, whole_within=0.4)
        proxy.answer_delay_seconds = 0

        async def is_closed() -> bool:
            return proxy.open_connections == 0

        # While the error, with all that its frames hold, is still in somebody's hands.
        await eventually(is_closed)
        assert kept.value


@pytest.mark.parametrize("name", ["put", "get", "size", "delete"])
async def test_an_answer_whose_every_byte_is_in_time_is_not_waited_for_for_ever(
    shaky: ObjectStore, proxy: TcpProxy, key: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Its head alone takes tens of pieces.
    monkeypatch.setattr("taskflow_testing.tcp_proxy._READ_BYTES", 8)
    proxy.answer_delay_seconds = 0.25
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "put": lambda: shaky.put(key, b"x"),
        "get": lambda: shaky.get(key),
        "size": lambda: shaky.size(key),
        "delete": lambda: shaky.delete([key]),
    }
    began_at = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="no whole answer"):
        await calls[name]()
    assert time.monotonic() - began_at < 2
    proxy.answer_delay_seconds = 0


class OnceCutting(TcpProxy):
    """Cuts the answers on its first connection short, and no others."""

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answer_limit_bytes = None if self.accepted else 200_000
        super()._accept(reader, writer)


async def test_what_was_cut_short_is_fetched_again(
    s3: TestBucket, store: ObjectStore, key: str, tmp_path: Path
) -> None:
    data = os.urandom(1_000_000)
    await store.put(key, data)
    async with OnceCutting(s3.endpoint) as once, open_store(s3, endpoint=once.url) as behind:
        assert await behind.get(key) == data
        assert once.accepted == 2
    target = tmp_path / "target"
    async with OnceCutting(s3.endpoint) as once, open_store(s3, endpoint=once.url) as behind:
        await behind.download(key, target)
        assert once.accepted == 2
    assert target.read_bytes() == data


async def test_a_closed_store_is_unavailable(s3: TestBucket, key: str) -> None:
    async with open_store(s3) as store:
        await store.close()
        with pytest.raises(ServiceUnavailable, match="shutting down"):
            await store.put(key, b"x")


async def test_an_endpoint_with_tls_is_spoken_to_in_tls(proxy: TcpProxy, s3: TestBucket) -> None:
    async with open_store(s3, endpoint=proxy.url.replace("http://", "https://")) as store:
        with pytest.raises(ServiceUnavailable, match="SSL"):
            await store.ping()


async def test_a_bucket_that_is_missing_is_made_by_the_first_write(s3: TestBucket) -> None:
    bucket = f"taskflow-test-{uuid4().hex[:12]}"
    async with open_store(s3, bucket=bucket) as store:
        await store.put("logs/a", b"line")
        assert await store.get("logs/a") == b"line"
        await store.delete(["logs/a"])
        delete_bucket(replace(s3, bucket=bucket))
