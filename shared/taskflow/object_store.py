"""Objects in one bucket of any S3, for asyncio: calls that block in a bounded pool of threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from minio.credentials.credentials import Credentials

from taskflow.errors import ObjectMissing, ServiceUnavailable
from taskflow.s3_bucket import PING_SECONDS, SERVICE, BucketMissing, S3Bucket
from taskflow.s3_signing import utc_now

__all__ = ["SERVICE", "ObjectStore"]

_WHOLE_CALL_TIMEOUTS = 2
"""How many time-outs a call may take from its beginning to its end."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ObjectStore:
    """One bucket. Every call raises ServiceUnavailable, in a bounded time, when S3 is not well."""

    def __init__(
        self,
        endpoint: str,
        *,
        access_key: str,
        secret_key: str,
        bucket: str,
        region: str,
        timeout_seconds: float,
        max_connections: int = 8,
        ca_file: str = "",
        host_clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`endpoint` is http://host:port or https://host:port; nothing is connected yet.

        `ca_file` holds the authorities that count for https; "" for the machine's.
        """
        self._bucket_name = bucket
        self._timeout_seconds = timeout_seconds
        self._bucket = S3Bucket(
            endpoint,
            credentials=Credentials(access_key, secret_key),
            bucket=bucket,
            region=region,
            timeout_seconds=timeout_seconds,
            max_connections=max_connections,
            ca_file=ca_file,
            host_clock=host_clock,
        )
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="object-store")
        self._slots = asyncio.Semaphore(max_connections)

    async def put(
        self, key: str, data: bytes, content_type: str = "application/octet-stream"
    ) -> None:
        """Write the whole object, over an older one of the same key."""
        async with self._time_limit():
            await self._write(self._bucket.put, key, data, content_type)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The object, or `length` bytes of it from `offset`; fewer where it ends before.

        Raises:
            ObjectMissing: there is none, or it ends before `offset`.
        """
        if length == 0:
            return b""
        async with self._time_limit() as seconds:
            return await self._call(
                self._bucket.get, key, offset, length or 0, whole_within=seconds
            )

    async def upload(
        self, key: str, path: Path, content_type: str = "application/octet-stream"
    ) -> None:
        """Write the object from a file, a part at a time."""
        await self._write(self._bucket.upload, key, path, content_type)

    async def download(self, key: str, path: Path) -> None:
        """Write the object to a file, a piece at a time.

        Raises:
            ObjectMissing: there is none. Whatever fails, `path` is not touched.
        """
        await self._call(self._bucket.download, key, path)

    async def size(self, key: str) -> int:
        """The object's length in bytes.

        Raises:
            ObjectMissing: there is none.
        """
        async with self._time_limit():
            return await self._call(self._bucket.size, key)

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            await self.size(key)
        except ObjectMissing:
            return False
        return True

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are missing already count as deleted."""
        async with self._time_limit():
            await self._call(self._bucket.delete, list(keys))

    async def delete_prefix(self, prefix: str) -> None:
        """Delete every object below `prefix`, which ends with a slash."""
        if not prefix.strip("/") or not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} is not a prefix of the form 'name/'")
        await self._call(self._bucket.delete_prefix, prefix)

    async def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        await self._call(self._bucket.ensure_bucket)

    async def ping(self) -> None:
        """Whether the bucket can be used now, found out in about two seconds at most.

        Raises:
            ServiceUnavailable: it can't.
        """
        try:
            async with asyncio.timeout(PING_SECONDS):
                found = await self._call(self._bucket.is_there)
        except TimeoutError:
            raise ServiceUnavailable(SERVICE, f"no answer in {PING_SECONDS:g} s") from None
        if not found:
            raise ServiceUnavailable(SERVICE, f"there is no bucket {self._bucket_name!r}")

    async def close(self) -> None:
        """Drop what waits and the idle connections; a call under way ends by its own time-out."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._bucket.close()

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[float]:
        """A limit for a whole call, in seconds: every piece of an answer may be in time alone.

        The thread stays with its request, which may still take effect.
        """
        seconds = _WHOLE_CALL_TIMEOUTS * self._timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                yield seconds
        except TimeoutError:
            raise ServiceUnavailable(SERVICE, f"no whole answer in {seconds:g} s") from None

    async def _write(
        self, write: Callable[Parameters, None], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> None:
        """Write, into a new bucket if there is none: a store may be emptied at any time."""
        try:
            await self._call(write, *args, **kwargs)
        except BucketMissing:
            await self.ensure_bucket()
            await self._call(write, *args, **kwargs)

    async def _call(
        self,
        function: Callable[Parameters, Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Run in a thread of the pool, once one is free."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise ServiceUnavailable(SERVICE, "every connection is busy") from None
        try:
            thread_call = self._threads.submit(function, *args, **kwargs)
        except RuntimeError:
            self._slots.release()
            raise ServiceUnavailable(SERVICE, "this process is shutting down") from None
        call = asyncio.wrap_future(thread_call)
        # The slot is free when the thread is, which a caller that is cancelled doesn't wait for.
        call.add_done_callback(self._free_slot)
        return await asyncio.shield(call)

    def _free_slot(self, call: "asyncio.Future[Any]") -> None:
        self._slots.release()
        if not call.cancelled():
            call.exception()  # Marks it as seen where the caller has gone.
