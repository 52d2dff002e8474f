"""Whom a request counts as: what is forwarded is believed from listed proxies alone."""

from ipaddress import ip_network
from typing import Any

import pytest

from taskflow_api.client_address import UNKNOWN, Client, TrustedProxies, limit_key

PROXIES = [ip_network(text) for text in ("10.0.0.0/8", "2001:db8::/32")]


def client(peer: str | None, *headers: tuple[str, str], header: str = "X-Forwarded-For") -> Client:
    scope: dict[str, Any] = {
        "client": None if peer is None else (peer, 1234),
        "scheme": "http",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    return TrustedProxies(PROXIES, header=header).client_of(scope)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        # Nobody in front: what is claimed is nothing.
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("203.0.113.9", "10.0.0.1", "203.0.113.9"),
        ("203.0.113.9", "127.0.0.1", "203.0.113.9"),
        # A proxy: the right-most hop that is none of ours, whatever the client wrote before it.
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "127.0.0.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "127.0.0.1, 198.51.100.1, 10.0.0.7", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db9::1]:443, 10.0.0.2", "2001:db9::1"),
        ("10.0.0.1", "2001:db9::1", "2001:db9::1"),
        ("::ffff:10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("2001:db8::5", "198.51.100.1", "198.51.100.1"),
        # Nothing forwarded: the proxy speaks for itself.
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        # What is no address is no proxy of ours either.
        ("10.0.0.1", "unknown", UNKNOWN),
        ("10.0.0.1", "198.51.100.1, _hidden", UNKNOWN),
        ("10.0.0.1", "198.51.100.1, ", UNKNOWN),
        ("10.0.0.1", "1.2.3", UNKNOWN),
        ("10.0.0.1", "0x7f.1", UNKNOWN),
        ("10.0.0.1", "127.0.0.1\t<script>", UNKNOWN),
        ("10.0.0.1", ", ".join(["10.0.0.2"] * 100), "10.0.0.2"),
        (None, "198.51.100.1", UNKNOWN),
    ],
)
def test_x_forwarded_for(peer: str | None, forwarded_for: str | None, address: str) -> None:
    headers = [] if forwarded_for is None else [("X-Forwarded-For", forwarded_for)]
    assert client(peer, *headers).address == address


def test_several_lines_are_one_list() -> None:
    lines = [("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-For", "198.51.100.1, 10.0.0.4")]
    assert client("10.0.0.1", *lines).address == "198.51.100.1"


@pytest.mark.parametrize(
    ("forwarded", "address", "scheme"),
    [
        ("for=198.51.100.1", "198.51.100.1", "http"),
        ("For=198.51.100.1;Proto=https;by=10.0.0.1", "198.51.100.1", "https"),
        ('for="198.51.100.1:80"; proto="https"', "198.51.100.1", "https"),
        ('for=127.0.0.1, for="[2001:db9::1]:4711", for=10.0.0.2', "2001:db9::1", "http"),
        ("for=_hidden", UNKNOWN, "http"),
        ("for=127.0.0.1, proto=https", UNKNOWN, "http"),
        ("by=10.0.0.1", UNKNOWN, "http"),
        ('for=198.51.100.1;host="x;for=127.0.0.1, for=127.0.0.1"', "198.51.100.1", "http"),
        # A quote that the client leaves open swallows what the proxy adds: then it is nobody.
        ('for="x, for="[2001:db9::1]"', UNKNOWN, "http"),
        ('for=127.0.0.1;x=", for="198.51.100.1"', UNKNOWN, "http"),
        ("", "10.0.0.1", "http"),
    ],
)
def test_forwarded(forwarded: str, address: str, scheme: str) -> None:
    found = client("10.0.0.1", ("Forwarded", forwarded), header="Forwarded")
    assert found == Client(address, scheme)


def test_only_the_header_that_the_proxies_write_counts() -> None:
    both = [("X-Forwarded-For", "198.51.100.1"), ("Forwarded", "for=127.0.0.1;proto=https")]
    assert client("10.0.0.1", *both) == Client("198.51.100.1", "http")
    assert client("10.0.0.1", *both, header="Forwarded") == Client("127.0.0.1", "https")


@pytest.mark.parametrize(
    ("peer", "proto", "scheme"),
    [
        ("10.0.0.1", "https", "https"),
        ("10.0.0.1", "http, HTTPS", "https"),
        ("10.0.0.1", "https, http", "http"),
        ("10.0.0.1", "javascript", "http"),
        ("203.0.113.9", "https", "http"),
    ],
)
def test_the_scheme_is_the_proxys_to_say(peer: str, proto: str, scheme: str) -> None:
    headers = [("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-Proto", proto)]
    assert client(peer, *headers).scheme == scheme


def test_who_owns_a_network_of_ipv6_is_one_client() -> None:
    assert limit_key("2001:db9::1:2:3:4") == limit_key("2001:db9::1") == "2001:db9::/64"
    assert limit_key("198.51.100.1") == "198.51.100.1/32"
    assert limit_key("198.51.100.1", is_wide=True) == "198.51.0.0/16"
    assert limit_key("2001:db9:1:2::3", is_wide=True) == "2001:db9::/32"
    assert limit_key(UNKNOWN) == UNKNOWN
