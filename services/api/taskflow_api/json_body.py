"""A request's body: strict JSON, parsed once, refused early."""

import json
import re
from collections import Counter
from itertools import accumulate
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from taskflow.jobs.json_value import MAX_DEPTH
from taskflow_api.problems import (
    INVALID_CONTENT,
    MALFORMED_BODY,
    UNSUPPORTED_MEDIA_TYPE,
    ProblemError,
)
from taskflow_api.validation_problems import problems_of

Model = TypeVar("Model", bound=BaseModel)

_JSON_TYPE = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = dict(zip(b"[{]}", (1, 1, -1, -1), strict=True))


async def read_body(request: Request, model: type[Model], *, around: int = 0) -> Model:
    """The body as `model`; `around`: by how many levels it may be nested deeper than others.

    Raises:
        ProblemError: 400, it is no JSON; 415, it doesn't claim to be; 422, the model refuses it.
    """
    if not _JSON_TYPE.fullmatch(request.headers.get("Content-Type", "")):
        raise ProblemError(
            UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json, in UTF-8."
        )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProblemError(
            UNSUPPORTED_MEDIA_TYPE,
            "The body must not be compressed.",
            headers={"Accept-Encoding": "identity"},
        )
    body = await request.body()
    return validated(model, parse_json(body, max_depth=MAX_DEPTH + around))


def validated(model: type[Model], value: Any) -> Model:
    """A value as `model`.

    Raises:
        ProblemError: 422, the model refuses it.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise ProblemError(
            INVALID_CONTENT,
            "The body has members that are not acceptable.",
            errors=problems_of(found),
        ) from None


def parse_json(body: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text in UTF-8 whose objects name no member twice.

    Raises:
        ProblemError: 400, it is none.
    """
    if not body.strip():
        raise ProblemError(MALFORMED_BODY, "The body is empty.")
    _refuse_depth(body, max_depth)
    try:
        text = body.decode()
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ProblemError(
            MALFORMED_BODY, f"The body is not UTF-8 at byte {error.start}."
        ) from None
    except json.JSONDecodeError as error:
        detail = f"{error.msg} at line {error.lineno}, column {error.colno}."
        raise ProblemError(MALFORMED_BODY, detail) from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError:
        # The one that is left: more digits than Python takes for an integer.
        raise ProblemError(MALFORMED_BODY, "A number has too many digits.") from None


def _too_deep(max_depth: int) -> ProblemError:
    return ProblemError(MALFORMED_BODY, f"The body is nested deeper than {max_depth} levels.")


def _refuse_depth(body: bytes, max_depth: int) -> None:
    """Before parsing, which is recursive; the cheap count settles it for nearly every body."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    depths = accumulate(map(_STEPS.__getitem__, _brackets(body)))
    if max(depths, default=0) > max_depth:
        raise _too_deep(max_depth)


def _brackets(body: bytes) -> bytes:
    """Those that are not within a string."""
    # Of escapes only a quote's matters, and of backslashes only what no other one escapes. Outside
    # of a string the parser stops at the first of them.
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(unescaped.split(b'"')[::2]).translate(None, _ALL_BUT_BRACKETS)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ProblemError(MALFORMED_BODY, f"An object has the member {name[:100]!r} twice.")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ProblemError(MALFORMED_BODY, f"{name} is not a JSON number.")
