import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.jobs.json_value import MAX_DEPTH
from taskflow_api.json_body import parse_json
from taskflow_api.problems import ProblemError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30
)


def nested(depth: int, value: str = "1") -> bytes:
    return ("[" * depth + value + "]" * depth).encode()


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_json_is_read_as_it_was_written(value: Any, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8")
    if depth_of(value) <= MAX_DEPTH:
        assert parse_json(body) == value


@given(st.binary())
def test_any_bytes_are_json_or_a_400(body: bytes) -> None:
    try:
        parse_json(body)
    except ProblemError as error:
        assert error.kind.status == 400  # noqa: PT017 - both ways are right


@given(st.text(alphabet='[]{}"\\,:1 ', max_size=200))
def test_any_text_of_brackets_and_quotes_is_json_or_a_400(text: str) -> None:
    try:
        value = parse_json(text.encode())
    except ProblemError as error:
        assert error.kind.status == 400  # noqa: PT017 - both ways are right
    else:
        assert value == json.loads(text)


@pytest.mark.parametrize("value", ["1", '"]"', '"\\"]]]"', '"[[[["', '{"[": "]"}'])
def test_depth_is_counted_outside_of_strings(value: str) -> None:
    deeper = 1 if value.startswith("{") else 0
    parse_json(nested(MAX_DEPTH - deeper, value))
    with pytest.raises(ProblemError, match="deeper"):
        parse_json(nested(MAX_DEPTH - deeper + 1, value))


def test_a_body_may_have_32_levels() -> None:
    assert depth_of(parse_json(nested(32))) == 32
    with pytest.raises(ProblemError, match="deeper than 32 levels"):
        parse_json(nested(33))


@given(VALUES, st.booleans(), st.integers(0, 6))
def test_what_is_deeper_is_refused_and_nothing_else(
    value: Any, ascii_only: bool, max_depth: int
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    if depth_of(value) <= max_depth:
        assert parse_json(body, max_depth=max_depth) == value
    else:
        with pytest.raises(ProblemError, match="deeper"):
            parse_json(body, max_depth=max_depth)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"[[]" * 30_000])
def test_what_is_never_closed_does_not_come_to_the_parser(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(json, "loads")
    with pytest.raises(ProblemError, match="deeper"):
        parse_json(body)


def test_what_was_never_opened_is_a_400() -> None:
    with pytest.raises(ProblemError) as refused:
        parse_json(b"]" * 100_000)
    assert refused.value.kind.status == 400


@given(st.text(alphabet='"\\[]{}a', max_size=30), st.integers(0, 4))
def test_brackets_within_a_string_are_none(text: str, depth: int) -> None:
    body = nested(depth, json.dumps({text: text}))
    assert depth_of(parse_json(body, max_depth=depth + 1)) == depth + 1
    with pytest.raises(ProblemError, match="deeper"):
        parse_json(nested(5, json.dumps({text: text})), max_depth=5)


def test_width_is_not_depth() -> None:
    body = b"[" + b",".join([b'{"a": [[]]}'] * 10_000) + b"]"
    assert len(parse_json(body)) == 10_000


@given(st.text(), st.text(), VALUES)
def test_a_member_that_is_named_twice_is_refused(name: str, other: str, value: Any) -> None:
    member = f"{json.dumps(name)}: {json.dumps(value)}"
    body = f"[{{{member}, {json.dumps(other + '!')}: 1, {member}}}]"
    if depth_of(value) < MAX_DEPTH - 1:
        with pytest.raises(ProblemError, match="twice"):
            parse_json(body.encode())
