"""Headers that layers and guards have for the answer to a request, whatever it will be."""

from collections.abc import Sequence

from starlette.types import Scope

Header = tuple[bytes, bytes]
"""A name in lower case, and its value, as ASGI has them."""


def add_headers(scope: Scope, whose: str, headers: Sequence[Header]) -> None:
    """Have these sent with the answer, in place of what `whose` had for it before."""
    scope["state"].setdefault("added_headers", {})[whose] = headers


def added_headers(scope: Scope) -> list[Header]:
    """All of them, the innermost's first: as what is nearest to the work, they tell the most."""
    added = scope["state"].get("added_headers", {})
    return [header for headers in reversed(added.values()) for header in headers]
