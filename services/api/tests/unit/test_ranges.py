"""The Range header, well-formed and not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_api.ranges import ByteRange, RangeNotSatisfiable, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-9", (0, 10)),
        ("bytes=3-5", (3, 6)),
        ("bytes=3-", (3, 10)),
        ("bytes=9-", (9, 10)),
        ("bytes=3-999999999999999999", (3, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-10", (0, 10)),
        ("bytes=-99", (0, 10)),
        ("Bytes=3-5", (3, 6)),
        ("  bytes= 3-5 ", (3, 6)),
        ("bytes=003-005", (3, 6)),
    ],
)
def test_a_range_of_ten_bytes(header: str, expected: tuple[int, int]) -> None:
    requested = parse_range(header)
    assert requested is not None
    assert requested.within(10) == ByteRange(*expected)


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99-100"])
def test_a_range_beyond_the_end_is_refused_with_the_length(header: str) -> None:
    requested = parse_range(header)
    assert requested is not None
    with pytest.raises(RangeNotSatisfiable) as caught:
        requested.within(10)
    assert caught.value.total_bytes == 10


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-5", "bytes=0-0"])
def test_nothing_has_no_ranges(header: str) -> None:
    requested = parse_range(header)
    assert requested is not None
    with pytest.raises(RangeNotSatisfiable):
        requested.within(0)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=0-1,3-4",
        "bytes=1",
        "lines=0-5",
        "bytes=--5",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=\u0661-\u0662",
        "bytes=0x1-0x2",
        "bytes=1.0-2",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_no_single_range_is_ignored(header: str | None) -> None:
    assert parse_range(header) is None


def test_content_range_names_the_last_byte_itself() -> None:
    assert ByteRange(3, 6).content_range(10) == "bytes 3-5/10"


@given(st.text(st.sampled_from("bytes=-, 0123456789"), max_size=30))
def test_no_header_is_too_odd(header: str) -> None:
    requested = parse_range("bytes=" + header)
    if requested is None:
        return
    try:
        found = requested.within(1000)
    except RangeNotSatisfiable:
        return
    assert 0 <= found.begin < found.end <= 1000
