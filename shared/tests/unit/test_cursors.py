from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.jobs.cursors import InvalidCursor, Position, decode, encode, list_digest

DIGESTS = st.binary(min_size=8, max_size=8)


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(), DIGESTS)
def test_a_cursor_is_its_position(at: datetime, job_id: UUID, digest: bytes) -> None:
    position = Position(at, job_id)
    assert decode(encode(position, digest), digest) == position


@given(st.text(), DIGESTS)
def test_what_is_no_cursor_is_refused(text: str, digest: bytes) -> None:
    with pytest.raises(InvalidCursor):
        decode(text, digest)


@given(st.binary(min_size=32, max_size=32))
def test_what_has_the_form_of_one_is_a_position_or_refused(packed: bytes) -> None:
    digest = packed[:8]
    position = Position(datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    forged = "".join(alphabet[byte % 64] for byte in packed) + encode(position, digest)[32:]
    try:
        decode(forged, digest)
    except InvalidCursor:
        return


def test_a_cursor_belongs_to_its_list() -> None:
    position = Position(datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1))
    mine, other = list_digest({"state": ["queued"]}), list_digest({"state": ["failed"]})
    with pytest.raises(InvalidCursor, match="other filters"):
        decode(encode(position, mine), other)


def test_the_order_of_filters_makes_no_other_list() -> None:
    one = list_digest({"state": ["failed", "queued"], "tag": ["a"]})
    assert one == list_digest({"tag": ["a"], "state": ["queued", "failed"]})
