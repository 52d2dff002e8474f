"""Values of users as JSON: what is taken keeps its meaning, the rest is refused clearly."""

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskflow.sdk.errors import JsonTooLarge, NotJson, finite
from taskflow.sdk.json_values import MAX_DEPTH, encode_json, loggable, said, shown, storable_text

any_text = st.text(st.characters(exclude_categories=()))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner) | st.dictionaries(any_text, inner),
    max_leaves=20,
)
odd_values = st.recursive(
    json_values
    | st.floats()
    | st.binary()
    | st.dates()
    | st.decimals()
    | st.uuids()
    | st.complex_numbers()
    | st.builds(object),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.integers()), inner)
    ),
    max_leaves=10,
)


# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in _texts(part)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return []


def _is_storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


@given(json_values)
@unhurried
def test_json_goes_through_unchanged_unless_a_text_in_it_can_not_be_stored(value: Any) -> None:
    if all(map(_is_storable, _texts(value))):
        assert json.loads(encode_json(value, max_bytes=10**9)) == value
    else:
        with pytest.raises(NotJson):
            encode_json(value, max_bytes=10**9)


@given(odd_values)
@unhurried
def test_whatever_is_taken_is_strict_json_and_everything_else_is_refused(value: Any) -> None:
    try:
        text = encode_json(value, max_bytes=10**9)
    except NotJson:
        return
    text.encode()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert all(map(_is_storable, _texts(json.loads(text, parse_constant=refuse))))


@given(any_text, st.integers(0, 50))
def test_text_is_made_storable_and_short(text: str, longest: int) -> None:
    stored = storable_text(text, longest)
    assert len(stored) == min(len(text), longest)
    assert _is_storable(stored)
    assert stored == text[:longest] or not _is_storable(text)


@given(st.dictionaries(any_text, odd_values, max_size=3))
@unhurried
def test_fields_of_a_line_always_become_json(fields: dict[str, Any]) -> None:
    shown = loggable(fields)
    assert list(shown) == list(fields)
    json.dumps(shown)


@pytest.mark.parametrize(("size", "is_taken"), [(10, True), (11, False)])
def test_the_limit_is_in_bytes(size: int, is_taken: bool) -> None:
    value = "ä" * 4 + "x" * (size - 10)
    if is_taken:
        assert len(encode_json(value, max_bytes=10).encode()) == 10
    else:
        with pytest.raises(JsonTooLarge, match="takes 11 bytes as JSON; at most 10"):
            encode_json(value, max_bytes=10)


@pytest.mark.parametrize(("depth", "is_taken"), [(MAX_DEPTH, True), (MAX_DEPTH + 2, False)])
def test_many_brackets_are_no_depth(depth: int, is_taken: bool) -> None:
    nested: Any = []
    for _ in range(depth - 1):
        nested = [nested, {}]
    if is_taken:
        assert json.loads(encode_json(nested, max_bytes=10**6)) == nested
    else:
        with pytest.raises(NotJson, match="nested deeper"):
            encode_json(nested, max_bytes=10**6)
    encode_json([[] for _ in range(5000)], max_bytes=10**6)
    encode_json("[" * 5000, max_bytes=10**6)


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def test_what_can_not_even_be_shown_is_still_logged() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    shown = loggable({"silent": Silent(), "cycle": cycle, "inf": math.inf, "bytes": b"\xff"})
    assert shown == {
        "silent": "<Silent, whose repr raises RuntimeError>",
        "cycle": "[[...]]",
        "inf": math.inf,
        "bytes": "b'\\xff'",
    }


def test_an_error_always_says_something() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert said(ValueError("x")) == "x"
    assert said(ValueError()) == "ValueError"
    assert said(Mute()) == "Mute (its message can't be read: KeyboardInterrupt)"


@pytest.mark.parametrize(
    ("value", "is_finite"),
    [
        (1, True),
        (1.5, True),
        (10**300, True),
        (True, False),
        (math.nan, False),
        (math.inf, False),
        ("1", False),
        (None, False),
        (10**400, False),
    ],
    ids=lambda value: repr(value)[:10],
)
def test_finite_numbers(value: object, is_finite: bool) -> None:
    assert finite(value) is is_finite


def test_integers_too_long_for_decimals_can_be_logged() -> None:
    assert loggable({"n": 10**5000}) == {"n": hex(10**5000)}
    assert loggable({"n": 10**1000}) == {"n": 10**1000}
    assert json.dumps(loggable({"n": -(2**20_000)}))
    assert shown(10**5000).startswith("<int, whose repr raises")
