"""Versions of a job, as HTTP compares them."""

import hashlib
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from taskflow_api.problems import MALFORMED_HEADER, ProblemError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ENTITY_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"\s*{_ENTITY_TAG}(?:\s*,\s*{_ENTITY_TAG})*\s*")
PATTERN = r'^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*")*)$'
"""An If-Match, for the documentation."""

_OURS = re.compile(r'"([0-9a-f]{1,16})-[0-9a-f]{16}"')


def etag(updated_at: datetime, representation: bytes) -> str:
    """The strong entity tag of what is shown; it carries `updated_at` to the microsecond."""
    microseconds = (updated_at - _EPOCH) // _MICROSECOND
    return f'"{microseconds:x}-{hashlib.sha256(representation).hexdigest()[:16]}"'


def versions_in(if_match: str | None) -> Collection[datetime] | None:
    """The `updated_at`s that an If-Match allows; None: any (no header, or `*`).

    Tags that are none of ours, weak ones among them, match nothing.

    Raises:
        ProblemError: 400, the header is malformed.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    if not _LIST.fullmatch(if_match):
        raise ProblemError(MALFORMED_HEADER, 'If-Match must be * or a list of "entity tags".')
    versions = set()
    for tag in re.findall(_ENTITY_TAG, if_match):
        if ours := _OURS.fullmatch(tag):
            try:
                versions.add(_EPOCH + int(ours[1], 16) * _MICROSECOND)
            except OverflowError:
                continue
    return versions


def is_unchanged(if_none_match: str | None, current: str) -> bool:
    """Whether an If-None-Match names the current tag; one that is malformed names nothing."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    if not _LIST.fullmatch(if_none_match):
        return False
    tags = re.findall(_ENTITY_TAG, if_none_match)
    return current in {tag.removeprefix("W/") for tag in tags}
