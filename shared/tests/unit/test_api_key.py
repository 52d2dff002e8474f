"""The form of an API key."""

import re

import pytest

from taskflow.api_key import ApiKey, MalformedApiKey, generate, parse

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
