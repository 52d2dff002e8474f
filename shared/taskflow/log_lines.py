"""One line of a job's log: as JSON, in which it is stored, and as text, in which it is read."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

MAX_LINE_BYTES = 64 * 1024
"""A longer line is shortened and carries `"cut": true`."""

_RESERVED = frozenset({"at", "level", "logger", "attempt", "message", "fields", "cut"})
_MAX_NAME_CHARACTERS = 200
_LEAST_ALLOWANCE_BYTES = 128
_CUT = "… [cut]"
_HAS_TEXT_FORM = (UUID, datetime, date, time, Decimal, PurePath)


def rfc3339(at: datetime) -> str:
    """A moment in UTC with microseconds, as in `2026-11-22T02:02:02.123456Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def render_json(
    at: datetime,
    *,
    level: str,
    logger: str,
    attempt: int,
    message: str,
    fields: Mapping[str, Any],
) -> bytes:
    """A JSON object and a newline, at most MAX_LINE_BYTES; never fails, whatever the fields hold.

    Fields whose names the line needs itself are kept under `fields`.
    """
    record: dict[str, Any] = {
        "at": rfc3339(at),
        "level": level[:_MAX_NAME_CHARACTERS].lower(),
        "logger": logger[:_MAX_NAME_CHARACTERS],
        "attempt": attempt,
        "message": message,
    }
    collisions: dict[str, Any] = {}
    for name, value in fields.items():
        # The cheap end of what is far too long: encoding it first would take memory for nothing.
        kept = value[: MAX_LINE_BYTES + 1] if isinstance(value, str) else value
        (collisions if name in _RESERVED else record)[str(name)[:_MAX_NAME_CHARACTERS]] = kept
    if collisions:
        record["fields"] = collisions
    if len(message) > MAX_LINE_BYTES:
        record["message"] = message[: MAX_LINE_BYTES + 1]
    line = _encode(record)
    return line if len(line) <= MAX_LINE_BYTES else _cut(record)


def render_text(line: bytes) -> bytes:
    """The line for human eyes, ending in a newline; nothing for a blank line.

    Control characters are escaped, so that no text of a job can pass for a line of its own; the
    lines of a traceback follow, each indented.
    """
    if not line.strip():
        return b""
    try:
        record = json.loads(line)
        text = _text(record)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        # Not one of ours; its reader should still see it.
        text = _escaped(line.decode("utf-8", "backslashreplace").strip()) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _text(record: dict[str, Any]) -> str:
    at, level = _escaped(record.pop("at")), _escaped(record.pop("level"))
    message = _escaped(record.pop("message"))
    is_cut = record.pop("cut", False)
    trace = record.pop("traceback", None)
    for name in ("logger", "attempt"):
        record.pop(name, None)
    pairs = " ".join(f"{_escaped(name)}={_value(value)}" for name, value in record.items())
    head = f"{at} {level.upper():<7} {message}"
    text = "  ".join(part for part in (head, pairs, "[cut]" if is_cut else "") if part) + "\n"
    if trace is None:
        return text
    return text + "".join(f"    {_escaped(row)}\n" for row in str(trace).splitlines())


def _value(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^\s\"'=\\]+", value):
        return _escaped(value)
    return _escaped(_ENCODER.encode(value))


# Control characters, line separators of Unicode, and what turns the direction of writing round.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def _escaped(text: str) -> str:
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _as_text(value: object) -> str:
    """For what JSON has no form for."""
    if isinstance(value, _HAS_TEXT_FORM):
        return str(value)
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a user's __repr__ can raise anything
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_text
)
# Line breaks to many a reader of lines, though not to JSON.
_OTHER_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029", 0x7F: "\\u007f"}


def _encode(record: dict[str, Any]) -> bytes:
    try:
        text = _ENCODER.encode(record)
    except Exception:  # noqa: BLE001 - a cycle, a NaN, odd keys, a user's __str__ ...
        text = _ENCODER.encode({name: _encodable(value) for name, value in record.items()})
    if not text.isascii():
        text = text.translate(_OTHER_LINE_BREAKS)
    # What is a lone surrogate in Python becomes its escape in JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _encodable(value: Any) -> Any:
    try:
        _ENCODER.encode(value)
    except Exception:  # noqa: BLE001 - see above
        return _as_text(value)[: MAX_LINE_BYTES + 1]
    return value


def _cut(record: dict[str, Any]) -> bytes:
    """The line with its longest values shortened, or, where that is not enough, without fields."""
    head = {name: record[name] for name in ("at", "level", "logger", "attempt", "message")}
    allowance = MAX_LINE_BYTES // 2
    while allowance >= _LEAST_ALLOWANCE_BYTES:
        shortened = {name: _shortened(value, allowance) for name, value in record.items()}
        line = _encode(shortened | {"cut": True})
        if len(line) <= MAX_LINE_BYTES:
            return line
        allowance //= 2
    message = _shortened(head["message"], _LEAST_ALLOWANCE_BYTES)
    return _encode(head | {"message": message, "cut": True})


def _shortened(value: Any, allowance: int) -> Any:
    encoded_bytes = len(_encode({"": value}))
    if encoded_bytes <= allowance:
        return value
    text = value if isinstance(value, str) else _encode({"": value}).decode()[4:-2]
    return text[: len(text) * allowance // encoded_bytes] + _CUT
