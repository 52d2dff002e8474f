"""Values of users as JSON that PostgreSQL, S3 and every client can take."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_jsonable_python

from taskflow.sdk.errors import JsonTooLarge, NotJson

MAX_DEPTH = 200
"""The nesting that readers of JSON commonly bear; pydantic's own reader stops there too."""

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_MAX_INT_BITS = 10_000  # Python refuses to write much longer integers as decimals.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def encode_json(value: object, *, max_bytes: int) -> str:
    """`value` as JSON text. Models, dataclasses, dates, UUIDs, enums, decimals and sets are taken.

    Raises:
        JsonTooLarge: the text takes more than `max_bytes` in UTF-8.
        NotJson: NaN, an infinity, bytes, a cycle, an object of another kind, a NUL or a lone
            surrogate in a string, or a nesting deeper than `MAX_DEPTH`.
    """
    try:
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        )
    except RecursionError:
        raise NotJson(_TOO_DEEP) from None
    except NotJson:
        raise
    except Exception as error:  # a serialiser of the user's own may raise anything
        raise NotJson(f"{type(error).__name__}: {error}") from error
    _check_text(text, max_bytes)
    return text


_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"


def _plain(value: object) -> Any:
    """What `json` doesn't know, in terms that it does; it goes through the result once more."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise NotJson("it holds bytes; encode them as base64, or store them as an artifact")
    # Infinities stay as they are here, so that `json` refuses them like any other.
    return to_jsonable_python(value, inf_nan_mode="constants")


def _check_text(text: str, max_bytes: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise NotJson("a string in it holds a lone surrogate") from None
    if size > max_bytes:
        raise JsonTooLarge(size, max_bytes)
    if "\\u0000" in text and _ESCAPED_NUL.search(text):
        raise NotJson("a string in it holds a NUL character")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        try:
            from_json(text)
        except ValueError:
            raise NotJson(_TOO_DEEP) from None


def storable_text(text: str, max_characters: int) -> str:
    """`text` without what PostgreSQL refuses (NUL, lone surrogates), and no longer than this."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text[:max_characters])


def said(error: BaseException) -> str:
    """An error's own words, even where its `__str__` fails; its class where it says nothing."""
    try:
        return str(error) or type(error).__name__
    except BaseException as second:  # noqa: BLE001 - a user's __str__ can raise anything
        return f"{type(error).__name__} (its message can't be read: {type(second).__name__})"


def loggable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a log line as values that `json` can write, by their `repr` where need be."""
    return {str(name): _loggable(value) for name, value in fields.items()}


def _loggable(value: object) -> Any:
    if value is None or type(value) in (str, bool):
        return value
    if type(value) is int:
        return value if value.bit_length() <= _MAX_INT_BITS else hex(value)
    try:
        return to_jsonable_python(value, inf_nan_mode="constants", fallback=_shown)
    except Exception:  # noqa: BLE001 - a cycle, bytes that are no text, a user's serialiser
        return _shown(value)


def shown(value: object) -> str:
    """A value as text, whatever its `__str__` does."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an integer that is too long, a user's __str__
        return _shown(value)


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a user's __repr__ can raise anything
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
