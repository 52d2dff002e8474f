"""What a value is, beside its members."""

import pickle
from dataclasses import field, replace

import pytest

from taskflow.values import value_type


@value_type
class Place:
    name: str
    near: tuple[str, ...] = field(default=())


def test_equal_values_are_one_in_a_set() -> None:
    assert {Place("here"), Place("here", ()), Place("there")} == {Place("here"), Place("there")}


def test_a_value_is_replaced_by_another_and_travels() -> None:
    there = replace(Place("here"), name="there")
    assert pickle.loads(pickle.dumps(there)) == there == Place("there")  # noqa: S301 - our own bytes


def test_a_value_has_no_other_members() -> None:
    with pytest.raises(AttributeError):
        Place("here").far = True  # type: ignore[attr-defined]


def test_a_change_is_refused_by_the_type_checker() -> None:
    place = Place("here")
    # This comment is itself refused as soon as mypy has nothing to say here.
    place.name = "there"  # type: ignore[misc]
