"""What came back, and what it asks for."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from taskflow.outbound.requests import Header

MAX_RETRY_AFTER_SECONDS = 86_400.0

_PASSES = frozenset({408, 425, 429})
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of whatever status; `url` is where it came from after `redirects`."""

    status: int
    headers: tuple[Header, ...]
    body: bytes
    is_truncated: bool
    url: str
    redirects: int
    elapsed_seconds: float

    @property
    def reason(self) -> str:
        """The status in words, ours and not the server's."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return ""

    @property
    def may_pass(self) -> bool:
        """Whether the same request may meet another answer later: 408, 425, 429 and 5xx."""
        return self.status in _PASSES or self.status >= _SERVER_ERROR

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return first(self.headers, name)

    def retry_after_seconds(self, now: datetime | None = None) -> float | None:
        """How long the server wants to be left alone, at most a day; None where it doesn't say."""
        value = (self.header("retry-after") or "").strip()
        if value.isascii() and value.isdigit():
            return min(float(value[:20]), MAX_RETRY_AFTER_SECONDS)
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - (now or datetime.now(UTC))).total_seconds()
        return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def first(headers: tuple[Header, ...], name: str) -> str | None:
    """The first header of this name, whatever its case."""
    return next((value for known, value in headers if known.lower() == name.lower()), None)
