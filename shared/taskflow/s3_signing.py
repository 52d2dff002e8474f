"""Requests to S3 signed with the server's time: it refuses a date that is 15 minutes off."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import structlog
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3
from minio.time import to_amz_date
from urllib3 import BaseHTTPResponse, PoolManager

_TOLERATED = timedelta(minutes=1)
_REFUSED = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST})
"""What servers answer to a wrong date, each with a code of its own."""

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """This host's time."""
    return datetime.now(UTC)


class ServerClock:
    """The server's time, as far as its answers show that this host's is wrong; for any thread."""

    def __init__(self, host_clock: Callable[[], datetime]) -> None:
        self._host_clock = host_clock
        self._lock = threading.Lock()
        self._offset = timedelta()

    @property
    def offset(self) -> timedelta:
        """What is added to this host's time; zero while the two are about the same."""
        return self._offset

    def now(self) -> datetime:
        """The time to sign with."""
        return self._host_clock() + self._offset

    def learn(self, date: str | None) -> None:
        """Take the `Date` of an answer that has just arrived."""
        server_time = _parse(date)
        if server_time is None:
            return
        with self._lock:
            if abs(server_time - self.now()) <= _TOLERATED:
                return
            offset = server_time - self._host_clock()
            self._offset = offset if abs(offset) > _TOLERATED else timedelta()
        if self._offset:
            ahead = round(-offset.total_seconds())
            log.warning("clock_skewed", service="object storage", host_ahead_seconds=ahead)
        else:
            log.info("clock_right_again", service="object storage")


class SigningPool(PoolManager):
    """Connections whose requests are dated and signed here, so the client above has no keys."""

    def __init__(
        self, credentials: Credentials, region: str, clock: ServerClock, **options: Any
    ) -> None:
        super().__init__(**options)
        self._credentials = credentials
        self._region = region
        self._clock = clock

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> BaseHTTPResponse:
        """Send a request, and once more if it was refused and its date was wrong."""
        offset = self._clock.offset
        response = self._send(method, url, redirect, options)
        if response.status not in _REFUSED or self._clock.offset == offset:
            return response
        response.drain_conn()
        return self._send(method, url, redirect, options)

    def _send(
        self, method: str, url: str, redirect: bool, options: dict[str, Any]
    ) -> BaseHTTPResponse:
        headers = self._signed(method, url, options)
        response = super().urlopen(method, url, redirect, **options | {"headers": headers})
        self._clock.learn(response.headers.get("Date"))
        return response

    def _signed(self, method: str, url: str, options: dict[str, Any]) -> dict[str, Any]:
        parts = urlsplit(url)
        now = self._clock.now()
        # TLS protects a body already; hashing it would be time lost.
        is_protected = parts.scheme == "https"
        digest = (
            "UNSIGNED-PAYLOAD" if is_protected else sha256(options.get("body") or b"").hexdigest()
        )
        dated = {"x-amz-date": to_amz_date(now), "x-amz-content-sha256": digest}
        return sign_v4_s3(
            method=method,
            url=parts,
            region=self._region,
            headers=dict(options["headers"]) | dated,
            credentials=self._credentials,
            content_sha256=digest,
            date=now,
        )


def _parse(date: str | None) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    # "-0000" is read as a time without a zone, and means UTC.
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
