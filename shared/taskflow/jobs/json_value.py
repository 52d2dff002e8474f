"""What a JSON value from outside may hold, so that every later part can store and show it."""

import math
from typing import Any

MAX_DEPTH = 32
MAX_ZEROS = 256 * 1024
"""How many further digits a value may have once its numbers are written without exponents, which
is how PostgreSQL gives them to all who read it: 250 KB of `1e308,` would be 13 MB there."""

Problem = tuple[str, str]
"""A JSON pointer (RFC 6901) and what is wrong there."""


def text_problem(text: str) -> str | None:
    """What keeps `text` from being stored in PostgreSQL, or None."""
    if "\x00" in text:
        return "must not contain the character U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "must not contain half of a surrogate pair"
    return None


def find_problem(value: Any, pointer: str = "", depth: int = 0) -> Problem | None:
    """The first thing in `value` that can't be stored as JSON, or None."""
    if isinstance(value, str):
        detail = text_problem(value)
        return (pointer, detail) if detail else None
    if isinstance(value, float) and not math.isfinite(value):
        return pointer, "must be a finite number"
    if not isinstance(value, dict | list):
        return None
    if depth >= MAX_DEPTH:
        return pointer, f"must not be nested deeper than {MAX_DEPTH} levels"
    return _find_in_members(value, pointer, depth)


def zeros_of_exponents(value: Any) -> int:
    """How many further digits the numbers in `value` take, at most, without their exponents."""
    if isinstance(value, float):
        _, _, exponent = repr(value).partition("e")
        return abs(int(exponent)) if exponent else 0
    if isinstance(value, dict):
        return sum(map(zeros_of_exponents, value.values()))
    return sum(map(zeros_of_exponents, value)) if isinstance(value, list) else 0


def _find_in_members(value: dict[str, Any] | list[Any], pointer: str, depth: int) -> Problem | None:
    if isinstance(value, list):
        members = [(str(index), item) for index, item in enumerate(value)]
    else:
        members = [(_escaped(key), item) for key, item in value.items()]
        for key in value:
            detail = text_problem(key)
            if detail:
                return pointer, f"has a member whose name {detail}"
    for token, item in members:
        problem = find_problem(item, f"{pointer}/{token}", depth + 1)
        if problem:
            return problem
    return None


def _escaped(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")
