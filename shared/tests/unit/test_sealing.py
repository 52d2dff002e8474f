import base64
import hashlib
import json
import secrets
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.errors import PayloadKeyMissing, SealBroken
from taskflow.sealing.form import json_sealed_by
from taskflow.sealing.ring import Part, Place, SealingKeyRing

TENANT, JOB = UUID(int=7), UUID(int=8)
PLACE = Place(TENANT, JOB, Part.PAYLOAD)
OLD, NEW = (f"{name}:{base64.b64encode(secrets.token_bytes(32)).decode()}" for name in "on")

BARE = SealingKeyRing.of("")
FIRST = SealingKeyRing.of(OLD)
ROTATED = SealingKeyRing.of(f"{NEW},{OLD}")
LEAVING = SealingKeyRing.of(f"none,{OLD}")

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["taskflow.sealed:1:o:AAAA", "taskflow.plain:x", "taskflow.plain:"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(VALUES, st.sampled_from([BARE, FIRST, ROTATED, LEAVING]))
def test_what_is_stored_comes_back(value: Any, ring: SealingKeyRing) -> None:
    stored = ring.seal_json(PLACE, json.dumps(value))
    assert json.loads(ring.open_json(PLACE, stored)) == value
    assert ring.open_value(PLACE, json.loads(stored)) == value
    content = json.dumps(value).encode()
    assert ring.open_object(PLACE, ring.seal_object(PLACE, content)) == content


@given(st.text() | st.sampled_from(["taskflow.sealed:1:o:AAAA", "taskflow.plain:x"]))
def test_a_text_comes_back(text: str) -> None:
    for ring in (BARE, FIRST, LEAVING):
        assert ring.open_text(PLACE, ring.seal_text(PLACE, text)) == text


def test_nothing_of_the_content_is_in_what_is_stored() -> None:
    value_json = json.dumps({"card": "4111 1111 1111 1111"})
    stored = FIRST.seal_json(PLACE, value_json)
    assert json_sealed_by(stored) == "o"
    content = base64.b64decode(json.loads(stored).rpartition(":")[2])
    assert b"card" not in content
    # The length shows, by a nonce of 12 bytes and a tag of 16.
    assert len(content) == len(value_json) + 28
    assert stored != FIRST.seal_json(PLACE, value_json), "a nonce was used twice"


def test_the_first_key_seals_and_all_of_them_open() -> None:
    old = FIRST.seal_json(PLACE, "1")
    new = ROTATED.seal_json(PLACE, "1")
    assert (json_sealed_by(old), json_sealed_by(new)) == ("o", "n")
    assert ROTATED.open_json(PLACE, old) == ROTATED.open_json(PLACE, new) == "1"
    assert LEAVING.seal_json(PLACE, "1") == "1"
    assert LEAVING.open_json(PLACE, old) == "1"


@pytest.mark.parametrize("ring", [BARE, FIRST, LEAVING])
def test_a_key_that_is_not_there_is_named(ring: SealingKeyRing) -> None:
    with pytest.raises(PayloadKeyMissing, match="'n'"):
        ring.open_json(PLACE, ROTATED.seal_json(PLACE, "1"))
    with pytest.raises(PayloadKeyMissing, match="'n'"):
        ring.open_object(PLACE, ROTATED.seal_object(PLACE, b"1"))


@pytest.mark.parametrize(
    "elsewhere",
    [
        Place(uuid4(), JOB, Part.PAYLOAD),
        Place(TENANT, uuid4(), Part.PAYLOAD),
        Place(TENANT, JOB, Part.RESULT),
    ],
)
def test_what_was_moved_does_not_open(elsewhere: Place) -> None:
    with pytest.raises(SealBroken):
        FIRST.open_json(elsewhere, FIRST.seal_json(PLACE, "1"))
    with pytest.raises(SealBroken):
        FIRST.open_object(elsewhere, FIRST.seal_object(PLACE, b"1"))


@pytest.mark.parametrize("broken", ["", "AAAA", "not base64!", "é"])
def test_what_was_cut_or_changed_does_not_open(broken: str) -> None:
    with pytest.raises(SealBroken):
        FIRST.open_text(PLACE, f"taskflow.sealed:1:o:{broken}")
    stored = FIRST.seal_object(PLACE, b"1")
    with pytest.raises(SealBroken):
        FIRST.open_object(PLACE, stored[:-1] + bytes([stored[-1] ^ 1]))


def test_a_fingerprint_tells_nothing_to_who_has_no_key() -> None:
    (bare,) = BARE.fingerprints(TENANT, b"request")
    assert bare == hashlib.sha256(b"request").digest()
    written, *others = FIRST.fingerprints(TENANT, b"request")
    assert others == [bare]
    assert written != bare
    assert written != FIRST.fingerprints(uuid4(), b"request")[0]
    # A request that is repeated while keys change, or are given up, is still the same.
    assert {written, bare} <= set(ROTATED.fingerprints(TENANT, b"request"))
    assert LEAVING.fingerprints(TENANT, b"request") == [bare, written]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("k", "entry 1 must be id:key"),
        (f"{OLD},:AAAA", "entry 2 must be id:key"),
        (f"a b:{OLD[2:]}", "entry 1"),
        (f"{OLD},{OLD}", "the key o is there twice"),
        (f"{OLD},none", "entry 2"),
        (f"none:{OLD[2:]}", "entry 1"),
        ("k:SECRET", "the key k must be 32 random bytes"),
        ("k:" + base64.b64encode(b"SECRET" * 5).decode(), "the key k must be 32 random bytes"),
    ],
    ids=["no-id", "empty-id", "odd-id", "twice", "no-key", "named-none", "no-base64", "short"],
)
def test_a_malformed_setting_is_said_without_its_keys(setting: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        SealingKeyRing.of(setting)
    assert "SECRET" not in str(caught.value)
    assert OLD[2:] not in str(caught.value)


def test_keys_in_the_alphabet_of_urls_are_keys() -> None:
    key = b"\xff\xfe" * 16
    ring = SealingKeyRing.of(f"k:{base64.urlsafe_b64encode(key).decode()}")
    assert ring.seals_with == "k"
    assert "/v7" not in repr(ring)
