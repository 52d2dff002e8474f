"""The texts that users come with: addresses, forms, refresh tokens."""

import pytest

from taskflow_api.form_body import parse_form
from taskflow_api.problems import ProblemError
from taskflow_api.users import refresh_tokens
from taskflow_api.users.mail_addresses import normal_address
from taskflow_api.users.token_keys import TokenKeyRing


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada.Lovelace+jobs@Example.COM", "ada.lovelace+jobs@example.com"),
        ("Ada <ada@example.com>", None),
        ("ada@example.com\n", None),
        ("ada@example.com\x00", None),
        ("ada", None),
        ("@example.com", None),
        ("ada@", None),
        ("ada@-example.com", None),
        ("a b@example.com", None),
        ('"a b"@example.com', None),
        ("ada@example.com,eve@example.com", None),
        ("\u0430da@example.com", None),
        (f"{'a' * 64}@example.com", f"{'a' * 64}@example.com"),
        (f"{'a' * 65}@example.com", None),
        (f"ada@{'a.' * 150}com", None),
        ("", None),
    ],
)
def test_an_address_has_one_form(text: str, address: str | None) -> None:
    assert normal_address(text) == address


def test_a_form_is_read_as_it_was_meant() -> None:
    body = b"grant_type=password&username=ada%40example.com&password=a+b%26%C3%A9&client_id="
    assert parse_form(body) == {
        "grant_type": "password",
        "username": "ada@example.com",
        "password": "a b&\u00e9",
    }
    assert parse_form(b"") == {}


@pytest.mark.parametrize(
    "body",
    [
        b"username=a&username=b",
        b"username",
        b"username=%ff",
        b"username=\xc3\xa9",
        b"&".join(b"f%d=1" % number for number in range(30)),
        b'{"username": "a"}',
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(ProblemError) as refused:
        parse_form(body)
    assert refused.value.kind.status == 400


def test_a_refresh_token_has_one_successor_for_each_key() -> None:
    current, previous = TokenKeyRing("a" * 32, "b" * 32).keys
    token = refresh_tokens.new()
    following = refresh_tokens.successor(token, current)
    assert refresh_tokens.is_well_formed(token)
    assert refresh_tokens.is_well_formed(following)
    assert following == refresh_tokens.successor(token, current)
    assert len({token, following, refresh_tokens.successor(token, previous)}) == 3
    assert token not in repr(refresh_tokens.digest(token))


@pytest.mark.parametrize("token", ["", "tf_refresh_", "x" * 54, "tf_refresh_" + "\u00e9" * 43])
def test_what_no_refresh_token_is_like_is_not_looked_for(token: str) -> None:
    assert not refresh_tokens.is_well_formed(token)
