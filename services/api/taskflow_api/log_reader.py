"""A job's log as the content of a response: whole, its end, or a range of its bytes."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from taskflow.errors import ObjectMissing, ServiceUnavailable
from taskflow.jobs.log_index import LogChunk
from taskflow.object_store import SERVICE, ObjectStore
from taskflow_api.log_parts import LogFormat, LogPart, plan
from taskflow_api.ranges import ByteRange, parse_range
from taskflow_api.storage_patience import storage_patience

_LOOK_AHEAD = 4
"""How many parts, of about a MiB at most, are fetched at once for one reader."""


@dataclass(frozen=True, slots=True)
class LogContent:
    """What to answer with; `body` is read once, and raises ServiceUnavailable where it breaks.

    `byte_range` is None when the answer is the whole of `total_bytes`, or of an unknown length.
    """

    media_type: str
    total_bytes: int | None
    byte_range: ByteRange | None
    body: AsyncIterator[bytes]

    @property
    def status_code(self) -> int:
        """200, or 206 for a range."""
        return 200 if self.byte_range is None else 206

    @property
    def headers(self) -> dict[str, str]:
        """The headers beside Content-Type."""
        headers = {"Accept-Ranges": "bytes"}
        if self.total_bytes is None:
            return headers
        if self.byte_range is None:
            return headers | {"Content-Length": str(self.total_bytes)}
        return headers | {
            "Content-Length": str(self.byte_range.end - self.byte_range.begin),
            "Content-Range": self.byte_range.content_range(self.total_bytes),
        }


class LogReader:
    """Reads logs a few chunks at a time, so that none is ever in memory as a whole."""

    def __init__(self, object_store: ObjectStore) -> None:
        self._object_store = object_store

    async def read(
        self,
        chunks: Sequence[LogChunk],
        *,
        form: LogFormat,
        tail: int | None = None,
        range_header: str | None = None,
    ) -> LogContent:
        """The lines of `chunks` in their order, or the last `tail` of them.

        Lines whose object is gone are replaced by one that says so.

        Raises:
            ServiceUnavailable: the object storage fails before the first byte.
            RangeNotSatisfiable: the range lies beyond the end.
        """
        media_type = f"{form}; charset=utf-8" if form is LogFormat.TEXT else str(form)
        parts = plan(chunks, form, tail)
        sizes = _known_sizes(parts)
        requested = parse_range(range_header)
        if requested is None:
            total = None if sizes is None else sum(sizes)
            return LogContent(media_type, total, None, await _primed(self._render_all(parts)))
        if sizes is None:
            sizes = [len(data) async for data in _each_in_time(self._render_all(parts))]
        byte_range = requested.within(sum(sizes))
        body = await _primed(self._render_range(parts, sizes, byte_range))
        return LogContent(media_type, sum(sizes), byte_range, body)

    async def _render_range(
        self, parts: Sequence[LogPart], sizes: Sequence[int], wanted: ByteRange
    ) -> AsyncGenerator[bytes, None]:
        begins = itertools.accumulate(sizes, initial=0)
        touched = [
            (part, begin, size)
            for part, begin, size in zip(parts, begins, sizes, strict=False)
            if begin < wanted.end and wanted.begin < begin + size
        ]
        async with aclosing(self._render_all([part for part, _, _ in touched])) as rendered:
            for _, begin, size in touched:
                data = await anext(rendered)
                if len(data) != size:
                    # The length is promised already: an answer that breaks off is no wrong one.
                    raise ServiceUnavailable(SERVICE, "the log was deleted while it was read")
                yield data[max(wanted.begin - begin, 0) : wanted.end - begin]

    async def _render_all(self, parts: Sequence[LogPart]) -> AsyncGenerator[bytes, None]:
        """Each part rendered, in their order, while the next ones are fetched."""
        coming = iter(parts)
        under_way: deque[asyncio.Task[bytes]] = deque()

        def fetch(count: int) -> None:
            for part in itertools.islice(coming, count):
                under_way.append(asyncio.create_task(self._render(part)))

        try:
            fetch(_LOOK_AHEAD)
            while under_way:
                yield await under_way[0]
                under_way.popleft()
                fetch(1)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _render(self, part: LogPart) -> bytes:
        stored = part.chunk.stored
        try:
            data = await self._object_store.get(
                stored.object_key, stored.byte_offset, stored.byte_length
            )
        except ObjectMissing:
            return part.render_missing()
        if len(data) != stored.byte_length:
            return part.render_missing()
        if part.form is LogFormat.JSON_LINES:
            return part.render(data)
        # Thousands of lines take long enough to be felt by every other request.
        return await asyncio.to_thread(part.render, data)


def _known_sizes(parts: Sequence[LogPart]) -> list[int] | None:
    sizes = [part.known_size for part in parts]
    known = [size for size in sizes if size is not None]
    return known if len(known) == len(sizes) else None


async def _each_in_time(body: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(body):
        while True:
            async with storage_patience():
                data = await anext(body, None)
            if data is None:
                return
            yield data


async def _primed(body: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """The same body with its first piece at hand: what fails does so before an answer begins."""
    async with storage_patience():
        first = await anext(body, b"")

    async def whole() -> AsyncIterator[bytes]:
        async with aclosing(body):
            yield first
            async for data in body:
                yield data

    return whole()
