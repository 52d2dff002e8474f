"""The form of an API key."""

import hashlib
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.api_key import ApiKey, MalformedApiKey, digest_of, generate, parse

KNOWN = ApiKey("Ab3dEf7h", "0123456789ABCDEFGHIJKLMNOPQRSTUV")


def test_a_key_has_the_form_that_scanners_look_for() -> None:
    pattern = r"tf_live_[0-9A-Za-z]{8}_[0-9A-Za-z]{32}[0-9A-Za-z]{6}"
    assert re.fullmatch(pattern, generate().text)


def test_the_checksum_is_crc32_in_base_62() -> None:
    assert KNOWN.text == "tf_live_Ab3dEf7h_0123456789ABCDEFGHIJKLMNOPQRSTUV39OnK9"


def test_a_key_survives_the_way_to_text_and_back() -> None:
    key = generate()
    assert parse(key.text) == key


def test_two_keys_differ() -> None:
    first, second = generate(), generate()
    assert first.key_id != second.key_id
    assert first.secret != second.secret


def test_the_secret_is_not_shown_by_accident() -> None:
    assert KNOWN.secret not in repr(KNOWN)


@pytest.mark.parametrize("position", range(len(KNOWN.text)))
def test_any_single_mistyped_character_is_noticed(position: int) -> None:
    wrong = "x" if KNOWN.text[position] != "x" else "y"
    with pytest.raises(MalformedApiKey):
        parse(KNOWN.text[:position] + wrong + KNOWN.text[position + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "_",
        "__",
        "tf_live_",
        "secret",
        KNOWN.text[:-1],
        KNOWN.text + "0",
        f" {KNOWN.text}",
        "ä" * 55,
    ],
)
def test_anything_else_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(MalformedApiKey) as raised:
        parse(text)
    assert not text or text not in str(raised.value)


ALPHABET = string.digits + string.ascii_letters
keys = st.builds(
    ApiKey,
    st.text(ALPHABET, min_size=8, max_size=8),
    st.text(ALPHABET, min_size=32, max_size=32),
)
places = st.integers(0, len(KNOWN.text) - 1)


def must_be_refused(text: str, key: ApiKey) -> None:
    if text != key.text:
        with pytest.raises(MalformedApiKey):
            parse(text)


@given(keys, places, st.characters())
def test_no_other_character_fits_anywhere(key: ApiKey, place: int, other: str) -> None:
    must_be_refused(key.text[:place] + other + key.text[place + 1 :], key)


@given(keys, places, st.text(ALPHABET + "_", max_size=3))
def test_what_is_cut_out_or_put_in_is_noticed(key: ApiKey, place: int, more: str) -> None:
    must_be_refused(key.text[:place] + more + key.text[place + 1 :], key)
    must_be_refused(key.text[:place] + more + key.text[place:], key)


@given(keys, places)
def test_two_neighbours_that_change_places_are_noticed(key: ApiKey, place: int) -> None:
    text = key.text
    must_be_refused(text[:place] + text[place : place + 2][::-1] + text[place + 2 :], key)


@given(keys)
def test_a_key_in_other_letters_is_another_one(key: ApiKey) -> None:
    must_be_refused(key.text.swapcase(), key)
    must_be_refused(key.text.lower(), key)


@given(keys)
def test_what_is_kept_of_it_is_the_sha_256_of_its_text(key: ApiKey) -> None:
    assert key.digest == hashlib.sha256(key.text.encode()).digest() == digest_of(key.text)
