"""What of a request may be written down."""

import pytest

from taskflow.outbound.redaction import (
    names_a_secret,
    redacted_headers,
    redacted_url,
    without_secrets,
)


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "proxy-authorization", "Cookie", "Set-Cookie", "X-Api-Key", "apikey"),
        *("X-Auth-Token", "X-Amz-Security-Token", "X-Amz-Signature", "webhook-signature"),
        *("access_token", "client_secret", "password", "sig", "key", "code", "X-Session-Id"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert names_a_secret(name)


@pytest.mark.parametrize(
    "name", ["Accept", "ETag", "Idempotency-Key", "WWW-Authenticate", "keyword", "page", "zipcode"]
)
def test_names_of_no_secrets(name: str) -> None:
    assert not names_a_secret(name)


def test_a_url_keeps_what_is_no_secret() -> None:
    url = "https://a.example/p?page=2&access_token=canary&t%6Fken=canary&empty&sig="
    assert "canary" not in redacted_url(url)
    assert redacted_url(url).startswith("https://a.example/p?page=2&access_token=[redacted]&")
    assert redacted_url("https://a.example/?page=2") == "https://a.example/?page=2"


def test_headers_by_name() -> None:
    shown = redacted_headers(
        [("A", "1"), ("a", "2"), ("B", "x"), ("Set-Cookie", "y"), ("Location", "/?code=z")], ["b"]
    )
    assert shown == {
        "A": "1, 2",
        "B": "[redacted]",
        "Set-Cookie": "[redacted]",
        "Location": "/?code=[redacted]",
    }


def test_what_is_echoed_is_blotted_out_unless_it_is_found_everywhere() -> None:
    assert without_secrets("so canary-x says", ["canary-x", "so"]) == "so [redacted] says"
