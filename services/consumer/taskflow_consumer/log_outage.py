"""Whether log lines can be stored now, and what a log says in the place of lines that it lost."""

from datetime import UTC, datetime

import structlog

from taskflow.errors import ServiceUnavailable
from taskflow.log_lines import rfc3339

_TOO_FAST = "the log was written faster than it could be stored"
log = structlog.get_logger(__name__)


class Outage:
    """An outage of S3 or PostgreSQL as the logs see it, from its first failure to its end."""

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._why_lost = _TOO_FAST

    @property
    def is_on(self) -> bool:
        """Whether it lasts."""
        return self._since is not None

    @property
    def why_lost(self) -> str:
        """What is to be said of lines for which there was no room."""
        return self._why_lost

    def begin(self, error: BaseException) -> None:
        """Note that storing has failed; in an outage that is on, again changes nothing."""
        if self._since is None:
            self._since = datetime.now(UTC)
            service = error.service if isinstance(error, ServiceUnavailable) else "PostgreSQL"
            self._why_lost = f"{service} was unreachable from {rfc3339(self._since)}"
            log.warning("log_storage_unreachable", service=service, error=str(error))

    def end(self) -> None:
        """Note that all is stored."""
        if self._since is not None:
            now = datetime.now(UTC)
            self._why_lost += f" to {rfc3339(now)}"
            seconds = (now - self._since).total_seconds()
            self._since = None
            log.info("log_storage_reachable_again", seconds=seconds)

    def forget(self) -> None:
        """Every log has said its gaps by now."""
        if self._since is None:
            self._why_lost = _TOO_FAST
