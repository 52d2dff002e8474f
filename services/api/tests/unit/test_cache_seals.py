"""Entries of the cache as Redis has them."""

from hypothesis import given
from hypothesis import strategies as st

from taskflow_api.cache.seals import Seals

SEALS = Seals("of_at_least_thirty_two_characters")
NAME = "taskflow:cache:tenant-a:result:key"


@given(st.text(), st.binary())
def test_what_was_sealed_opens_under_its_name_alone(name: str, value: bytes) -> None:
    sealed = SEALS.seal(name, value)
    assert SEALS.open(name, sealed) == value
    assert SEALS.open(name + "x", sealed) is None
    assert Seals("another_of_thirty_two_characters").open(name, sealed) is None


def test_another_tenants_entry_is_none() -> None:
    assert SEALS.open(NAME.replace("-a", "-b"), SEALS.seal(NAME, b"theirs")) is None


def test_whatever_was_changed_or_cut_is_none() -> None:
    sealed = SEALS.seal(NAME, b"a value")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        assert SEALS.open(NAME, bytes(changed)) is None
        assert SEALS.open(NAME, sealed[:at]) is None
    assert SEALS.open(NAME, b'{"result": "made up"}') is None


def test_a_value_can_not_be_read_without_the_secret() -> None:
    sealed = SEALS.seal(NAME, b"canary" * 10)
    assert b"canary" not in sealed
    assert sealed != SEALS.seal(NAME, b"canary" * 10)
