"""One form for every log line: structlog's own and the standard library's, JSON or console."""

import contextlib
import functools
import io
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from pydantic_core import PydanticSerializationError, to_json
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)|secret|token|api[_-]?key|authorization|credential|cookie", re.IGNORECASE
)
# `claim_token` and the like name rows of ours, not a right to anything.
_NO_SECRETS = frozenset({"claim_token"})
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[^\s\"',]+", re.IGNORECASE)
_OUR_OWN = re.compile(r"\btf_(live|refresh)_[\w-]+")
# Control characters, line separators of Unicode, and what turns the direction of writing round.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_OF_SEVERAL_LINES = frozenset({"exception", "stack"})
_PLAIN = frozenset({str, bool, int, float, type(None)})
_PLAIN_TYPES = (str, int, float, type(None))
_MAX_DEPTH = 6
# Named here, since `bool | int | float` would be put together anew for each value.
_NUMBERS = (bool, int, float)
_SEQUENCES = (list, tuple, set, frozenset)
# Made once: `json.dumps` with options makes an encoder for each call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
# At INFO these tell of every request and every connection.
_TALKATIVE = ("aio_pika", "aiormq", "asyncio", "urllib3", "uvicorn")
# Of each loss and each try in vain it tells once or twice more what `taskflow.broker` tells, at
# ERROR and with a traceback: hundreds of lines in an outage of minutes.
_REPEATING = ("aiormq.connection",)


def configure_logging(
    level: str, log_format: str, *, service: str, witnesses: Sequence[Processor] = ()
) -> None:
    """Send every log line of this process to standard output; call it once, in `__main__`.

    `level` is DEBUG, INFO, WARNING or ERROR; `log_format` is json or console. A line carries
    `timestamp` (UTC), `level`, `event`, `logger`, `service`, and what is bound to the context
    (`request_id`, `job_id`, `attempt`). `witnesses` see the lines of structlog's before they are
    rendered: no handler of `logging` does.
    """
    named: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    rendered = [_name_service(service), *_rendering(log_format)]
    # Where no name is given, it is that of the module that asks.
    named_logger = structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])
    structlog.configure(
        processors=[*named, _contained([*witnesses, *rendered], instead=rendered)],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=lambda *names: _LineLogger(named_logger(*names).name),
        cache_logger_on_first_use=True,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*named, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    if root.level > logging.DEBUG:
        for name in _REPEATING:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(capture=True)


class _LineLogger:
    """Where lines of ours end: straight at standard output, in a third of `logging`'s time."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _write(self, line: str) -> None:
        # As with `logging`: a full disk, or nobody who reads, is no reason to stop working.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    debug = info = warning = error = critical = _write


def _contained(rendering: Sequence[Processor], *, instead: Sequence[Processor]) -> Processor:
    """As with `logging`: a value that can't be shown must not fail who logs it."""

    def render(logger: WrappedLogger, method: str, event: EventDict) -> Any:
        try:
            return _processed(rendering, logger, method, event)
        except Exception as error:  # noqa: BLE001 - whatever a value of the caller's raises
            plain = {name: value for name, value in event.items() if type(value) in _PLAIN}
            told = {**plain, "line": plain.get("event"), "event": "line_not_shown"}
            return _processed(instead, logger, method, {**told, "exc_info": error})

    return render


def _processed(
    processors: Sequence[Processor], logger: WrappedLogger, method: str, event: EventDict
) -> Any:
    line: Any = event
    for process in processors:
        line = process(logger, method, line)
    return line


def _name_service(service: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return add


def _rendering(log_format: str) -> list[Processor]:
    # Tracebacks are text: with their local variables they would show secrets.
    rendering: list[Processor] = [structlog.processors.format_exc_info, redact]
    if log_format == "json":
        return [_as_json(rendering)]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [*rendering, _escape_texts, console]


def _as_json(rendering: Sequence[Processor]) -> Processor:
    """One line to every reader: JSON leaves some characters that end lines, or steer terminals.

    Most lines have nothing to be blotted out, cut or escaped, which is seen in a fourth of the time
    that looking for each of these takes.
    """

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        if _is_plain(event):
            with contextlib.suppress(PydanticSerializationError):
                line = to_json(event).decode()
                if line.isprintable() and not _may_hold_credentials(line):
                    return line
        return _escaped(_encode(_processed(rendering, logger, method, event)))

    return render


def _is_plain(event: EventDict) -> bool:
    """Whether no name, and no type of a value, asks for more than to be written down."""
    for name, value in event.items():
        if not isinstance(value, _PLAIN_TYPES) or name == "exc_info" or _is_secret(name):
            return False
    return True


def _escape_texts(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For a console, where no text may pass for a line of its own."""
    return {_escaped(name): _escaped_value(name, value) for name, value in event.items()}


def _escaped_value(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name in _OF_SEVERAL_LINES:
        return "\n".join(_escaped(line) for line in value.split("\n"))
    return _escaped(value)


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blot out what is a secret by its name, and credentials within any text."""
    return {name: _redacted(name, value, 0) for name, value in event.items()}


def _redacted(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, _NUMBERS):
        return value
    if _is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return _without_credentials(value)
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        return {str(key): _redacted(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, _SEQUENCES) and depth < _MAX_DEPTH:
        return [_redacted("", item, depth + 1) for item in value]
    return _without_credentials(str(value))


@functools.lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None and name not in _NO_SECRETS


def _may_hold_credentials(text: str) -> bool:
    return "@" in text or "tf_" in text or _may_name_scheme(text)


def _may_name_scheme(text: str) -> bool:
    lowered = text.lower()
    return "earer" in lowered or "asic" in lowered


def _without_credentials(text: str) -> str:
    if "@" in text:
        text = _URL_CREDENTIALS.sub(f"{REDACTED}@", text)
    if "tf_" in text:
        text = _OUR_OWN.sub(REDACTED, text)
    return _BEARER.sub(rf"\1 {REDACTED}", text) if _may_name_scheme(text) else text
