"""One bucket of any S3 through the `minio` client: calls that block, each for a bounded time."""

import io
import re
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError  # nosec B405 # its name, no parser

from minio import Minio
from minio.credentials.credentials import Credentials
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error
from urllib3 import Retry, Timeout
from urllib3.exceptions import HTTPError, MaxRetryError

from taskflow.errors import ObjectMissing, ServiceUnavailable
from taskflow.s3_signing import ServerClock, SigningPool
from taskflow.tls import certificate_problem

SERVICE = "object storage"
PING_SECONDS = 2.0
_CONNECT_SECONDS = 3.0
_READ_BYTES = 64 * 1024
_MISSING_CODES = frozenset({"NoSuchKey", "InvalidRange"})
_SINGLE_PUT_MIN_PART_BYTES = 5 * 1024 * 1024


class BucketMissing(ServiceUnavailable):
    """The store is there, our bucket isn't."""


class _TransferCut(ServiceUnavailable):
    """The answer ended before the object did."""


class S3Bucket:
    """What one request or a few do; for any thread. Raises ServiceUnavailable if S3 is not well."""

    def __init__(
        self,
        endpoint: str,
        *,
        credentials: Credentials,
        bucket: str,
        region: str,
        timeout_seconds: float,
        max_connections: int,
        ca_file: str,
        host_clock: Callable[[], datetime],
    ) -> None:
        """`timeout_seconds` is how long each piece of an answer may take.

        `ca_file` holds the authorities that count for https; "" for the machine's.
        """
        self._bucket = bucket
        url = urlsplit(endpoint)
        clock = ServerClock(host_clock)
        is_https = url.scheme == "https"
        tls = ssl.create_default_context(cafile=ca_file or None) if is_https else None

        def open_pool(timeout: float, *, retries: int, size: int) -> SigningPool:
            return SigningPool(
                credentials, region, clock, **_pool_options(tls, timeout, retries, size)
            )

        patient = open_pool(timeout_seconds, retries=2, size=max_connections)
        brisk = open_pool(min(timeout_seconds, PING_SECONDS), retries=0, size=1)
        self._pools = (patient, brisk)
        self._client, self._pinger = (
            Minio(url.netloc, secure=is_https, region=region, http_client=pool)
            for pool in self._pools
        )

    def close(self) -> None:
        """Drop the idle connections; a call under way ends by its own time-out."""
        for pool in self._pools:
            pool.clear()

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Write the whole object, over an older one of the same key."""
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

    def get(self, key: str, offset: int, length: int, *, whole_within: float) -> bytes:
        """The object from `offset` on, `length` bytes of it or all (0), within so many seconds."""
        until = time.monotonic() + whole_within
        try:
            return self._whole(key, offset, length, until)
        except _TransferCut:
            return self._whole(key, offset, length, until)

    def _whole(self, key: str, offset: int, length: int, until: float) -> bytes:
        # Given up half-way, a generator holds its connection for as long as the error is kept.
        with closing(self._pieces(key, offset, length)) as pieces:
            return b"".join(_in_time(pieces, until))

    def upload(self, key: str, path: Path, content_type: str) -> None:
        """Write the object from a file, a part at a time."""
        with path.open("rb") as file, _errors(key):
            self._client.put_object(self._bucket, key, file, path.stat().st_size, content_type)

    def download(self, key: str, path: Path) -> None:
        """Write the object to a file, which nothing touches if it can't be had whole."""
        partial = path.with_name(path.name + ".partial")
        try:
            try:
                self._write_to(partial, key)
            except _TransferCut:
                self._write_to(partial, key)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _write_to(self, path: Path, key: str) -> None:
        with path.open("wb") as file, closing(self._pieces(key, 0, 0)) as pieces:
            file.writelines(pieces)

    def _pieces(self, key: str, offset: int, length: int) -> Generator[bytes]:
        with _errors(key):
            response = self._client.get_object(self._bucket, key, offset, length)
        with closing(response):
            try:
                yield from response.stream(_READ_BYTES)
            except HTTPError as error:
                raise _TransferCut(SERVICE, _said(error)) from error
            # Only a response that was read to its end leaves a connection that can be used again.
            response.release_conn()

    def size(self, key: str) -> int:
        """The object's length in bytes; ObjectMissing if there is none."""
        with _errors(key):
            return self._client.stat_object(self._bucket, key).size or 0

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand with each request."""
        with _errors(""):
            refused = self._client.remove_objects(self._bucket, map(DeleteObject, keys))
            problems = [f"{error.name}: {error.code}" for error in refused]
        if problems:
            raise ServiceUnavailable(SERVICE, f"could not delete {', '.join(problems[:3])}")

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object whose key begins like this."""
        with _errors(prefix):
            found = self._client.list_objects(self._bucket, prefix=prefix, recursive=True)
            self.delete(item.object_name for item in found if item.object_name)

    def is_there(self) -> bool:
        """Whether the bucket exists, asked once on a connection of its own in `PING_SECONDS`."""
        return self._exists(self._pinger)

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        if not self._exists(self._client):
            try:
                with _errors(self._bucket):
                    self._client.make_bucket(self._bucket)
            except ServiceUnavailable:
                # Another process may have been faster; S3 servers name that in different ways.
                if not self._exists(self._client):
                    raise

    def _exists(self, client: Minio) -> bool:
        with _errors(self._bucket):
            return client.bucket_exists(self._bucket)


def _in_time(pieces: Iterator[bytes], until: float) -> Iterator[bytes]:
    for piece in pieces:
        if time.monotonic() > until:
            raise ServiceUnavailable(SERVICE, "the answer takes too long")
        yield piece


def _pool_options(
    tls: ssl.SSLContext | None, timeout: float, retries: int, size: int
) -> dict[str, Any]:
    return {
        "maxsize": size,
        "timeout": Timeout(connect=min(timeout, _CONNECT_SECONDS), read=timeout),
        "retries": Retry(
            total=retries,
            # A second wait for an answer that did not come would only hold the thread.
            read=min(retries, 1),
            backoff_factor=0.1,
            status_forcelist=(500, 502, 503, 504),
            redirect=False,
        ),
        "ssl_context": tls,
    }


@contextmanager
def _errors(key: str) -> Iterator[None]:
    """What the client raises, as errors of ours."""
    try:
        yield
    except (MinioException, HTTPError, ParseError, UnicodeDecodeError) as error:
        if _s3_code(error) in _MISSING_CODES:
            raise ObjectMissing(key) from None
        gone = _s3_code(error) == "NoSuchBucket"
        kind = BucketMissing if gone else ServiceUnavailable
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
    if problem := certificate_problem(error):
        return problem
    if isinstance(error, MaxRetryError) and error.reason:
        return str(error.reason)
    return str(error) or type(error).__name__
