"""The logger that a handler is given: lines with fields."""

import traceback
from collections.abc import Mapping
from typing import Any, Protocol

from taskflow.sdk.json_values import loggable, shown

LOGGER_NAME = "job"
"""What the lines of `ctx.log` name as their logger."""


class LineSink(Protocol):
    """Where a `JobLogger` writes to; an `AttemptLog` is one."""

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        """Keep one line."""


class JobLogger:
    """Writes lines with fields to the attempt's log: `ctx.log.info("resized", width=320)`."""

    def __init__(self, sink: LineSink, bound: Mapping[str, Any] | None = None) -> None:
        self._sink = sink
        self._bound = dict(bound or {})

    def bind(self, **fields: Any) -> "JobLogger":
        """A logger that puts `fields` on every line."""
        return JobLogger(self._sink, {**self._bound, **fields})

    def debug(self, message: str, /, **fields: Any) -> None:
        """Write a line for whoever looks for a fault."""
        self._write("debug", message, fields)

    def info(self, message: str, /, **fields: Any) -> None:
        """Write a line that says what happens."""
        self._write("info", message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        """Write a line about what is odd but bearable."""
        self._write("warning", message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        """Write a line about what went wrong."""
        self._write("error", message, fields)

    def exception(self, message: str, /, **fields: Any) -> None:
        """Write a line about what went wrong, with the traceback of the current exception."""
        self._write("error", message, {**fields, "traceback": traceback.format_exc()})

    def _write(self, level: str, message: object, fields: Mapping[str, Any]) -> None:
        text = message if isinstance(message, str) else shown(message)
        self._sink.write(level, text, LOGGER_NAME, loggable({**self._bound, **fields}))
