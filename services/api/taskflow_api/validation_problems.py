"""What pydantic finds wrong, in the words of an answer."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from taskflow_api.problems import pointer_to

MAX_ERRORS = 20
"""How many problems of one request an answer lists."""

_WORDS = {"extra_forbidden": "is not known here", "missing": "is required"}


def problems_of(errors: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The errors of pydantic as (JSON pointer, detail)."""
    found = []
    for error in islice(errors, MAX_ERRORS):
        # pydantic marks a member's name that is no text by one more step of its place.
        place = [step for step in error["loc"] if step != "[key]"]
        within = error.get("ctx", {}).get("pointer", "")
        detail = _WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, ")
        found.append((pointer_to(*place) + within, detail))
    return found
