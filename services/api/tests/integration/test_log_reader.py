"""Reading logs back: forms, ends, ranges, and objects that are gone."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from uuid_utils.compat import uuid7

from taskflow.errors import ServiceUnavailable
from taskflow.jobs.log_index import LogChunk, StoredLogRange
from taskflow.log_lines import render_json
from taskflow.object_store import ObjectStore
from taskflow_api.log_parts import LogFormat
from taskflow_api.log_reader import LogContent, LogReader
from taskflow_api.ranges import RangeNotSatisfiable
from taskflow_testing.clients import open_store
from taskflow_testing.jobs import TENANT
from taskflow_testing.object_store import TestBucket
from taskflow_testing.tcp_proxy import TcpProxy

TEXT, JSON_LINES = LogFormat.TEXT, LogFormat.JSON_LINES
AT = datetime(2026, 11, 22, 2, 2, 2, tzinfo=UTC)


def line(message: str, attempt: int = 1, **fields: Any) -> bytes:
    return render_json(
        AT, level="info", logger="job", attempt=attempt, message=message, fields=fields
    )


@dataclass
class StoredLog:
    """Chunks of one job, each in an object of its own unless told otherwise."""

    store: ObjectStore
    job_id: Any = field(default_factory=uuid7)
    prefix: str = field(default_factory=lambda: f"logs/{uuid4()}")
    chunks: list[LogChunk] = field(default_factory=list)

    async def add(self, *messages: str, attempt: int = 1, before: bytes = b"") -> LogChunk:
        data = b"".join(line(message, attempt) for message in messages)
        key = f"{self.prefix}/{len(self.chunks)}"
        await self.store.put(key, before + data + before)
        stored = StoredLogRange(key, len(before), len(data))
        self.chunks.append(LogChunk(TENANT, self.job_id, attempt, stored, len(messages)))
        return self.chunks[-1]


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


@pytest.fixture
def log(store: ObjectStore) -> StoredLog:
    return StoredLog(store)


@pytest.fixture
def reader(store: ObjectStore) -> LogReader:
    return LogReader(store)


async def body(content: LogContent) -> bytes:
    return b"".join([data async for data in content.body])


async def read(
    reader: LogReader, chunks: Sequence[LogChunk], form: LogFormat, tail: int | None = None
) -> bytes:
    return await body(await reader.read(chunks, form=form, tail=tail))


def messages(data: bytes) -> list[str]:
    return [json.loads(row)["message"] for row in data.splitlines()]


async def test_json_lines_are_what_is_stored(reader: LogReader, log: StoredLog) -> None:
    await log.add("one", "two", before=b"{somebody else's}\n")
    await log.add("three")
    content = await reader.read(log.chunks, form=JSON_LINES)
    expected = line("one") + line("two") + line("three")
    assert await body(content) == expected
    assert content.status_code == 200
    assert content.media_type == "application/x-ndjson"
    assert content.headers == {"Accept-Ranges": "bytes", "Content-Length": str(len(expected))}


async def test_text_is_for_human_eyes(reader: LogReader, log: StoredLog) -> None:
    await log.add("one\ntwo", before=b"{somebody else's}\n")
    content = await reader.read(log.chunks, form=TEXT)
    assert await body(content) == b"2026-11-22T02:02:02.000000Z INFO    one\\ntwo\n"
    assert content.status_code == 200
    assert content.media_type == "text/plain; charset=utf-8"
    assert content.headers == {"Accept-Ranges": "bytes"}


@pytest.mark.parametrize("form", list(LogFormat))
async def test_a_log_without_lines_is_empty(reader: LogReader, form: LogFormat) -> None:
    for tail in (None, 0, 5):
        content = await reader.read([], form=form, tail=tail)
        assert await body(content) == b""
        assert content.status_code == 200
    with pytest.raises(RangeNotSatisfiable):
        await reader.read([], form=form, range_header="bytes=0-5")


async def test_several_attempts_are_told_apart(reader: LogReader, log: StoredLog) -> None:
    await log.add("a")
    await log.add("b", attempt=2)
    await log.add("c", attempt=2)
    text = (await read(reader, log.chunks, TEXT)).decode()
    stamp = "2026-11-22T02:02:02.000000Z INFO    "
    assert text == (f"--- attempt 1 ---\n{stamp}a\n--- attempt 2 ---\n{stamp}b\n{stamp}c\n")
    rows = (await read(reader, log.chunks, JSON_LINES)).splitlines()
    assert [json.loads(row)["attempt"] for row in rows] == [1, 2, 2]
    assert b"---" not in await read(reader, log.chunks[1:], TEXT)


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 4, 5, 6, 7, 100])
async def test_the_tail_is_the_last_lines(reader: LogReader, log: StoredLog, tail: int) -> None:
    everything = [f"message {number}" for number in range(6)]
    await log.add(*everything[:3])
    await log.add(everything[3])
    await log.add(*everything[4:])
    expected = everything[max(6 - tail, 0) :]
    assert messages(await read(reader, log.chunks, JSON_LINES, tail)) == expected
    text = await read(reader, log.chunks, TEXT, tail)
    assert [row.split(maxsplit=2)[2] for row in text.decode().splitlines()] == expected


async def test_the_tail_reads_only_what_it_needs(reader: LogReader, log: StoredLog) -> None:
    for number in range(4):
        await log.add(f"{number} a", f"{number} b")
    for chunk in log.chunks[:2]:
        await log.store.delete([chunk.stored.object_key])
    found = messages(await read(reader, log.chunks, JSON_LINES, 3))
    assert found == ["2 b", "3 a", "3 b"]


async def test_the_tail_of_several_attempts_names_those_it_shows(
    reader: LogReader, log: StoredLog
) -> None:
    for attempt in (1, 2, 3):
        await log.add("a", "b", attempt=attempt)
    text = (await read(reader, log.chunks, TEXT, 3)).decode()
    assert re.findall(r"attempt \d|[ab]$", text, re.MULTILINE) == [
        "attempt 2",
        "b",
        "attempt 3",
        "a",
        "b",
    ]


@pytest.mark.parametrize("form", list(LogFormat))
@pytest.mark.parametrize("tail", [None, 4])
async def test_every_range_is_a_piece_of_the_whole(
    reader: LogReader, log: StoredLog, form: LogFormat, tail: int | None
) -> None:
    for attempt in (1, 2, 3):
        await log.add("first ü", "second", attempt=attempt)
    whole = await read(reader, log.chunks, form, tail)
    edge = len(whole) // 2
    for header, begin, end in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, len(whole)),
        (f"bytes={edge}-", edge, len(whole)),
        (f"bytes={edge}-{edge + 200}", edge, min(edge + 201, len(whole))),
        ("bytes=20-30", 20, 31),
        ("bytes=-10", len(whole) - 10, len(whole)),
        (f"bytes={len(whole) - 1}-{len(whole) + 5}", len(whole) - 1, len(whole)),
    ]:
        content = await reader.read(log.chunks, form=form, tail=tail, range_header=header)
        assert await body(content) == whole[begin:end], header
        assert content.status_code == 206
        assert content.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(whole)}"
        assert content.headers["Content-Length"] == str(end - begin)
    with pytest.raises(RangeNotSatisfiable) as caught:
        await reader.read(log.chunks, form=form, tail=tail, range_header=f"bytes={len(whole)}-")
    assert caught.value.total_bytes == len(whole)


@pytest.mark.parametrize("header", ["bytes=0-1,4-5", "lines=0-5", "nonsense"])
async def test_what_is_no_single_range_gets_the_whole(
    reader: LogReader, log: StoredLog, header: str
) -> None:
    await log.add("one")
    content = await reader.read(log.chunks, form=JSON_LINES, range_header=header)
    assert content.status_code == 200
    assert await body(content) == line("one")


async def test_a_range_of_json_lines_touches_only_its_own_chunks(
    reader: LogReader, log: StoredLog
) -> None:
    for number in range(3):
        await log.add(f"chunk {number}")
    await log.store.delete([log.chunks[0].stored.object_key])
    size = log.chunks[0].stored.byte_length
    content = await reader.read(log.chunks, form=JSON_LINES, range_header=f"bytes={size}-")
    assert messages(await body(content)) == ["chunk 1", "chunk 2"]


@pytest.mark.parametrize("tail", [None, 5])
@pytest.mark.parametrize("form", list(LogFormat))
async def test_lines_that_retention_took_are_said_to_be_missing(
    reader: LogReader, log: StoredLog, form: LogFormat, tail: int | None
) -> None:
    await log.add("before")
    gone = await log.add("gone", "gone too", "and this one", "x" * 100)
    await log.add("after")
    await log.store.delete([gone.stored.object_key])
    whole = await read(reader, log.chunks, form, tail)
    assert "… 4 lines are missing: no longer stored".encode() in whole
    assert whole.index(b"missing") < whole.index(b"after")
    # The whole and its ranges are bytes of one and the same representation.
    content = await reader.read(log.chunks, form=form, tail=tail, range_header="bytes=3-")
    assert [len(await body(content)) + 3, content.total_bytes] == [len(whole)] * 2


async def test_missing_json_lines_keep_the_length_that_was_promised(
    reader: LogReader, log: StoredLog
) -> None:
    short = await log.add("s")
    long = await log.add("m" * 300)
    tiny = replace(long, stored=replace(long.stored, byte_length=20))
    await log.store.delete([short.stored.object_key, long.stored.object_key])
    content = await reader.read([short, long, tiny], form=JSON_LINES)
    whole = await body(content)
    assert len(whole) == content.total_bytes
    first, second, third = whole.split(b"\n")[:3]
    assert "missing" in json.loads(first)["message"]
    assert json.loads(second)["message"] == "… 1 line is missing: no longer stored"
    assert third.strip() == b""


async def test_the_tail_tells_how_many_of_its_lines_are_missing(
    reader: LogReader, log: StoredLog
) -> None:
    gone = await log.add("one", "two", "three")
    await log.add("four")
    await log.store.delete([gone.stored.object_key])
    assert messages(await read(reader, log.chunks, JSON_LINES, 3)) == [
        "… 2 lines are missing: no longer stored",
        "four",
    ]


async def test_an_object_that_is_too_short_counts_as_missing(
    reader: LogReader, log: StoredLog
) -> None:
    chunk = await log.add("one", "two", "three")
    await log.store.put(chunk.stored.object_key, line("one")[:-5])
    assert messages(await read(reader, log.chunks, JSON_LINES)) == [
        "… 3 lines are missing: no longer stored"
    ]


async def test_stretches_that_were_blanked_are_skipped(reader: LogReader, log: StoredLog) -> None:
    chunk = await log.add("one", "two")
    size = chunk.stored.byte_length
    blank = b" " * (size - len(line("two")) - 1) + b"\n" + line("two")
    await log.store.put(chunk.stored.object_key, blank)
    text = await read(reader, log.chunks, TEXT)
    assert text == b"2026-11-22T02:02:02.000000Z INFO    two\n"


async def test_a_log_of_many_chunks_arrives_in_order(reader: LogReader, log: StoredLog) -> None:
    for number in range(40):
        await log.add(f"{number} a", f"{number} b")
    expected = [f"{number} {part}" for number in range(40) for part in "ab"]
    assert messages(await read(reader, log.chunks, JSON_LINES)) == expected


async def test_storage_that_is_down_fails_before_an_answer_begins(
    s3: TestBucket, log: StoredLog
) -> None:
    await log.add("one")
    async with TcpProxy(s3.endpoint) as proxy, open_store(s3, endpoint=proxy.url) as store:
        proxy.go_down()
        for header in (None, "bytes=0-"):
            for form in LogFormat:
                with pytest.raises(ServiceUnavailable):
                    await LogReader(store).read(log.chunks, form=form, range_header=header)


@pytest.mark.parametrize("header", [None, "bytes=0-"])
@pytest.mark.parametrize("form", LogFormat)
async def test_storage_that_is_slow_is_said_to_be_before_a_reader_gives_up(
    s3: TestBucket,
    log: StoredLog,
    form: LogFormat,
    header: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskflow_api.storage_patience.STORAGE_SECONDS", 0.2)
    await log.add("one")
    async with TcpProxy(s3.endpoint) as proxy, open_store(s3, endpoint=proxy.url) as slow:
        proxy.answer_delay_seconds = 1.0
        with pytest.raises(ServiceUnavailable, match=r"nothing came within 0\.2 s"):
            await LogReader(slow).read(log.chunks, form=form, range_header=header)


async def test_storage_that_goes_down_later_breaks_the_answer_off(
    s3: TestBucket, log: StoredLog
) -> None:
    for number in range(20):
        await log.add(str(number))
    async with TcpProxy(s3.endpoint) as proxy, open_store(s3, endpoint=proxy.url) as store:
        content = await LogReader(store).read(log.chunks, form=JSON_LINES)
        assert messages(await anext(content.body)) == ["0"]
        proxy.go_down()
        with pytest.raises(ServiceUnavailable):
            await body(content)


async def test_a_range_of_a_log_that_is_deleted_meanwhile_breaks_off(
    reader: LogReader, log: StoredLog
) -> None:
    for number in range(20):
        await log.add(f"{number} {'x' * 200}")
    content = await reader.read(log.chunks, form=TEXT, range_header="bytes=0-")
    await anext(content.body)
    await log.store.delete([chunk.stored.object_key for chunk in log.chunks])
    with pytest.raises(ServiceUnavailable, match="deleted"):
        await body(content)


async def test_a_reader_that_goes_away_leaves_nothing_running(
    reader: LogReader, log: StoredLog
) -> None:
    for number in range(10):
        await log.add(str(number))
    before = asyncio.all_tasks()
    content = await reader.read(log.chunks, form=JSON_LINES)
    await anext(content.body)
    await content.body.aclose()  # type: ignore[attr-defined]
    assert asyncio.all_tasks() == before


async def test_a_large_log_as_text_leaves_the_loop_free(reader: LogReader, log: StoredLog) -> None:
    rows = [f"{number} {'x' * 80}" for number in range(6000)]
    for _ in range(8):
        await log.add(*rows)
    longest_stall = 0.0

    async def watch_the_loop() -> None:
        nonlocal longest_stall
        while True:
            begin = time.monotonic()
            await asyncio.sleep(0.005)
            longest_stall = max(longest_stall, time.monotonic() - begin)

    watch = asyncio.create_task(watch_the_loop())
    content = await reader.read(log.chunks, form=TEXT)
    lines = 0
    async for data in content.body:
        lines += data.count(b"\n")
    watch.cancel()
    assert lines == 48_000
    # Generous, since the machine may be busy: the loop must not stand still for the whole of it.
    assert longest_stall < 3
