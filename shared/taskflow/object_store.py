"""Objects in one bucket of any S3, for asyncio: the `minio` client in a bounded pool of threads."""

import asyncio
import io
import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, MaxRetryError

from taskflow.errors import ObjectMissing, ServiceUnavailable

SERVICE = "object storage"
_CONNECT_SECONDS = 3.0
_PING_SECONDS = 2.0
_READ_BYTES = 256 * 1024
_MISSING_CODES = frozenset({"NoSuchKey", "InvalidRange"})
_SINGLE_PUT_MIN_PART_BYTES = 5 * 1024 * 1024

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
    ) -> None:
        """`endpoint` is http://host:port or https://host:port; nothing is connected yet."""
        self._bucket = bucket
        self._timeout_seconds = timeout_seconds

        url = urlsplit(endpoint)

        def client(pool: PoolManager) -> Minio:
            return Minio(
                url.netloc,
                access_key=access_key,
                secret_key=secret_key,
                secure=url.scheme == "https",
                region=region,
                http_client=pool,
            )

        patient = _pool(url.scheme, timeout_seconds, retries=2, size=max_connections)
        brisk = _pool(url.scheme, min(timeout_seconds, _PING_SECONDS), retries=0, size=1)
        self._pools = (patient, brisk)
        self._client = client(patient)
        self._pinger = client(brisk)
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="object-store")
        self._slots = asyncio.Semaphore(max_connections)

    async def put(
        self, key: str, data: bytes, content_type: str = "application/octet-stream"
    ) -> None:
        """Write the whole object, over an older one of the same key."""
        await self._write(self._put, key, data, content_type)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The object, or `length` bytes of it from `offset`; fewer where it ends before.

        Raises:
            ObjectMissing: there is none, or it ends before `offset`.
        """
        return b"" if length == 0 else await self._call(self._get, key, offset, length or 0)

    async def upload(
        self, key: str, path: Path, content_type: str = "application/octet-stream"
    ) -> None:
        """Write the object from a file, a part at a time."""
        await self._write(self._upload, key, path, content_type)

    async def download(self, key: str, path: Path) -> None:
        """Write the object to a file, a piece at a time.

        Raises:
            ObjectMissing: there is none. Whatever fails, `path` is not touched.
        """
        await self._call(self._download, key, path)

    async def size(self, key: str) -> int:
        """The object's length in bytes.

        Raises:
            ObjectMissing: there is none.
        """
        return await self._call(self._size, key)

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            await self.size(key)
        except ObjectMissing:
            return False
        return True

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are missing already count as deleted."""
        await self._call(self._delete, list(keys))

    async def delete_prefix(self, prefix: str) -> None:
        """Delete every object below `prefix`, which ends with a slash."""
        if not prefix.strip("/") or not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} is not a prefix of the form 'name/'")
        await self._call(self._delete_prefix, prefix)

    async def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        await self._call(self._ensure_bucket)

    async def ping(self) -> None:
        """Whether the bucket can be used now, found out in about two seconds at most.

        Raises:
            ServiceUnavailable: it can't.
        """
        try:
            async with asyncio.timeout(_PING_SECONDS):
                found = await self._call(self._bucket_exists, self._pinger)
        except TimeoutError:
            raise ServiceUnavailable(SERVICE, f"no answer in {_PING_SECONDS:g} s") from None
        if not found:
            raise ServiceUnavailable(SERVICE, f"there is no bucket {self._bucket!r}")

    async def close(self) -> None:
        """Drop what waits and the idle connections; a call under way ends by its own time-out."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            pool.clear()

    async def _write(
        self, write: Callable[Parameters, None], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> None:
        """Write, into a new bucket if there is none: a store may be emptied at any time."""
        try:
            await self._call(write, *args, **kwargs)
        except _BucketMissing:
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

    def _put(self, key: str, data: bytes, content_type: str) -> None:
        with _errors(key):
            self._client.put_object(
                self._bucket,
                key,
                io.BytesIO(data),
                len(data),
                content_type,
                # One request, so that the object appears whole whatever its size.
                part_size=max(len(data), _SINGLE_PUT_MIN_PART_BYTES),
            )

    def _get(self, key: str, offset: int, length: int) -> bytes:
        try:
            return b"".join(self._pieces(key, offset, length))
        except _TransferCut:
            return b"".join(self._pieces(key, offset, length))

    def _upload(self, key: str, path: Path, content_type: str) -> None:
        with path.open("rb") as file, _errors(key):
            self._client.put_object(self._bucket, key, file, path.stat().st_size, content_type)

    def _download(self, key: str, path: Path) -> None:
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                file.writelines(self._pieces(key, 0, 0))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _pieces(self, key: str, offset: int, length: int) -> Iterator[bytes]:
        with _errors(key):
            response = self._client.get_object(self._bucket, key, offset, length)
        with closing(response):
            try:
                yield from response.stream(_READ_BYTES)
            except HTTPError as error:
                raise _TransferCut(SERVICE, _said(error)) from error
            # Only a response that was read to its end leaves a connection that can be used again.
            response.release_conn()

    def _size(self, key: str) -> int:
        with _errors(key):
            return self._client.stat_object(self._bucket, key).size or 0

    def _delete(self, keys: Iterable[str]) -> None:
        with _errors(""):
            refused = self._client.remove_objects(self._bucket, map(DeleteObject, keys))
            problems = [f"{error.name}: {error.code}" for error in refused]
        if problems:
            raise ServiceUnavailable(SERVICE, f"could not delete {', '.join(problems[:3])}")

    def _delete_prefix(self, prefix: str) -> None:
        with _errors(prefix):
            found = self._client.list_objects(self._bucket, prefix=prefix, recursive=True)
            self._delete(item.object_name for item in found if item.object_name)

    def _ensure_bucket(self) -> None:
        if not self._bucket_exists(self._client):
            try:
                with _errors(self._bucket):
                    self._client.make_bucket(self._bucket)
            except ServiceUnavailable:
                # Another process may have been faster; S3 servers name that in different ways.
                if not self._bucket_exists(self._client):
                    raise

    def _bucket_exists(self, client: Minio) -> bool:
        with _errors(self._bucket):
            return client.bucket_exists(self._bucket)


class _BucketMissing(ServiceUnavailable):
    """The store is there, our bucket isn't."""


class _TransferCut(ServiceUnavailable):
    """The answer ended before the object did."""


def _pool(scheme: str, timeout: float, *, retries: int, size: int) -> PoolManager:
    return PoolManager(
        maxsize=size,
        timeout=Timeout(connect=min(timeout, _CONNECT_SECONDS), read=timeout),
        retries=Retry(
            total=retries,
            # A second wait for an answer that did not come would only hold the thread.
            read=min(retries, 1),
            backoff_factor=0.1,
            status_forcelist=(500, 502, 503, 504),
            redirect=False,
        ),
        ssl_context=ssl.create_default_context() if scheme == "https" else None,
    )


@contextmanager
def _errors(key: str) -> Iterator[None]:
    """What the client raises, as errors of ours."""
    try:
        yield
    except (MinioException, HTTPError, ParseError, UnicodeDecodeError) as error:
        if _s3_code(error) in _MISSING_CODES:
            raise ObjectMissing(key) from None
        gone = _s3_code(error) == "NoSuchBucket"
        kind = _BucketMissing if gone else ServiceUnavailable
        raise kind(SERVICE, _said(error)) from error


def _s3_code(error: Exception) -> str | None:
    if isinstance(error, S3Error):
        return error.code
    # The client takes error bodies of a server that calls them text/xml for no XML at all.
    if isinstance(error, InvalidResponseError) and (
        found := re.search(r"<Code>(\w{1,64})</Code>", str(error))
    ):
        return found[1]
    return None


def _said(error: Exception) -> str:
    if code := _s3_code(error):
        return f"it answers {code}"
    if isinstance(error, MaxRetryError) and error.reason:
        return str(error.reason)
    return str(error) or type(error).__name__
