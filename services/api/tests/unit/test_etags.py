from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_api.etags import etag, is_unchanged, versions_in
from taskflow_api.problems import ProblemError

AT = datetime(2026, 11, 22, 2, 2, 2, 123456, tzinfo=UTC)
TIMES = st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(TIMES, st.binary())
def test_a_tag_carries_its_version_to_the_microsecond(at: datetime, shown: bytes) -> None:
    assert versions_in(etag(at, shown)) == {at}
    assert versions_in(f'"other" , {etag(at, shown)}') == {at}


def test_another_representation_has_another_tag() -> None:
    tags = {etag(AT, b"a"), etag(AT, b"b"), etag(AT + timedelta(microseconds=1), b"a")}
    assert len(tags) == 3


@pytest.mark.parametrize("header", [None, "*", " * "])
def test_any_version_is_no_condition(header: str | None) -> None:
    assert versions_in(header) is None


@pytest.mark.parametrize(
    "header", ['""', '"x"', f"W/{etag(AT, b'')}", '"ffffffffffffffff-0123456789abcdef"', '"é"']
)
def test_a_tag_that_is_none_of_ours_matches_nothing(header: str) -> None:
    assert versions_in(header) == set()


@pytest.mark.parametrize("header", ["", "x", '"x', '"a" "b"', '"a",', ',"a"', 'w/"a"', '"a b"'])
def test_what_is_no_list_of_tags_is_malformed(header: str) -> None:
    with pytest.raises(ProblemError) as raised:
        versions_in(header)
    assert raised.value.kind.status == 400


@given(st.text(max_size=40))
def test_any_header_is_tags_or_a_400(header: str) -> None:
    is_unchanged(header, etag(AT, b""))
    try:
        versions_in(header)
    except ProblemError as error:
        assert error.kind.status == 400  # noqa: PT017 - both ways are right
