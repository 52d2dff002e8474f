"""Ordinary `logging` inside a job, and structlog, as lines of that job's log."""

import logging
from typing import Any

from structlog.processors import format_exc_info
from structlog.typing import EventDict, WrappedLogger

from taskflow.log_setup import configure_logging
from taskflow.sdk.context import current_attempt_log

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SAID_ALREADY = ("level", "logger", "timestamp", "job_id", "attempt")
"""What structlog is set up to add for the service's own log, where lines of all jobs meet."""
_LEVELS = (
    (logging.CRITICAL, "critical"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warning"),
    (logging.INFO, "info"),
)


def configure_capture(level: str, log_format: str) -> None:
    """Set up the log of the service, and what else goes to the log of an attempt."""
    configure_logging(level, log_format, service="consumer", witnesses=[capture_event])
    logging.getLogger().addHandler(LogCapture())


def capture_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What `LogCapture` does, for lines of structlog's, which do not go through `logging`."""
    attempt_log = current_attempt_log.get()
    if attempt_log is not None:
        message, fields = _structlog_content(event)
        attempt_log.write(event["level"], message, event["logger"], fields)
    return event


class LogCapture(logging.Handler):
    """Brings records to the log of the attempt that emits them; outside an attempt it does nothing.

    To be added to the root logger, beside what writes the service's own log.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record as one line: its message, its `extra`, its traceback."""
        attempt_log = current_attempt_log.get()
        if attempt_log is None:
            return
        try:
            message, fields = _content(record)
            attempt_log.write(_level(record.levelno), message, record.name, fields)
        except Exception:  # noqa: BLE001 - a bad format in a user's call must not fail the job
            self.handleError(record)


def _content(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    if isinstance(record.msg, dict) and "event" in record.msg:
        return _structlog_content(record.msg)
    fields = {name: value for name, value in vars(record).items() if name not in _OWN_ATTRIBUTES}
    if record.exc_info:
        fields["traceback"] = _FORMATTER.formatException(record.exc_info)
    elif record.exc_text:
        fields["traceback"] = record.exc_text
    if record.stack_info:
        fields["stack"] = record.stack_info
    return record.getMessage(), fields


def _structlog_content(event: EventDict) -> tuple[str, dict[str, Any]]:
    """The content of an event of structlog's that is not rendered yet."""
    fields = dict(format_exc_info(None, "", dict(event)))
    message = str(fields.pop("event"))
    for name in _SAID_ALREADY:
        fields.pop(name, None)
    if "exception" in fields:
        fields["traceback"] = fields.pop("exception")
    return message, fields


_FORMATTER = logging.Formatter()


def _level(number: int) -> str:
    return next((name for least, name in _LEVELS if number >= least), "debug")
