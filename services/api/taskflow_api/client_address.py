"""Who sent a request: the peer, or whom a trusted proxy says that it speaks for."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice
from typing import Any, cast

from starlette.types import Scope

from taskflow.setting_types import Network

UNKNOWN = "unknown"
"""The address of who has none that can be told."""

MAX_HOPS = 32
"""How many proxies in a row are looked through."""

_BRACKETED = re.compile(r"\[([^\]]*)\](:\d{1,5})?")
_IPV4_WITH_PORT = re.compile(r"([\d.]+):\d{1,5}")
_PAIR = r'\s*[A-Za-z]+\s*=\s*(?:"[^"\\]*"|[^\s",;=]+)\s*'
_ELEMENT = re.compile(rf"{_PAIR}(?:;{_PAIR})*")
_FORWARDED = re.compile(rf"{_PAIR}(?:[;,]{_PAIR})*")
_NAMED = re.compile(r'([A-Za-z]+)\s*=\s*(?:"([^"\\]*)"|([^\s",;=]+))')

_MAX_CHARACTERS = 100
"""Of an address with its port and zone; what is longer is none, and isn't worth remembering."""

_NARROW_BITS = {4: 32, 6: 64}
_WIDE_BITS = {4: 16, 6: 32}

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent the request, and whether it came by `http` or `https`, as the nearest proxy says."""

    address: str
    scheme: str


class TrustedProxies:
    """The proxies that are believed, and the header that they write."""

    def __init__(self, networks: Sequence[Network], *, header: str) -> None:
        """`header` is X-Forwarded-For or Forwarded.

        Only the one that the proxies write may be named: the other comes from anybody.
        """
        self._networks = networks
        self._header = header.lower().encode()
        self._hops_in = _forwarded_hops if self._header == b"forwarded" else _x_forwarded_hops

    def client_of(self, scope: Scope) -> Client:
        """The right-most hop that is none of the proxies; the peer where it is none itself."""
        peer = _parse((scope.get("client") or ("",))[0])
        if peer is None:
            return Client(UNKNOWN, scope["scheme"])
        if not self._networks:
            return Client(str(peer), scope["scheme"])
        client, scheme = peer, scope["scheme"]
        for hop, hop_scheme in islice(self._hops_in(scope["headers"]), MAX_HOPS):
            if not contains(self._networks, client):
                break
            if hop is None:
                # Whoever made a proxy pass on what is no address must not count as that proxy.
                return Client(UNKNOWN, scheme)
            client, scheme = hop, hop_scheme or scheme
        return Client(str(client), scheme)


def client_address(scope: Scope) -> str:
    """The address of who sent this request, for limits and records."""
    client: Client | None = scope.get("state", {}).get("client")
    return client.address if client else UNKNOWN


@lru_cache(maxsize=4096)
def limit_key(address: str, *, is_wide: bool = False) -> str:
    """What counts as one client: an IPv4 address, or the /64 that an IPv6 host chooses within.

    `is_wide`: its /16, or the /32 that is a provider's.
    """
    parsed = _parse(address)
    if parsed is None:
        return address
    bits = _WIDE_BITS if is_wide else _NARROW_BITS
    return str(ip_network((parsed, bits[parsed.version]), strict=False))


def contains(networks: Sequence[Network], address: Address | str) -> bool:
    """Whether an address lies in one of the networks."""
    parsed = _parse(address) if isinstance(address, str) else address
    return parsed is not None and any(parsed in network for network in networks)


def _x_forwarded_hops(headers: Any) -> Iterator[tuple[Address | None, str | None]]:
    schemes = _values(headers, b"x-forwarded-proto").rpartition(",")
    scheme = _scheme(schemes[2])
    addresses = _values(headers, b"x-forwarded-for")
    for text in reversed(addresses.split(",")) if addresses else ():
        yield _parse(text), scheme


def _forwarded_hops(headers: Any) -> Iterator[tuple[Address | None, str | None]]:
    text = _values(headers, b"forwarded")
    if text and not _FORWARDED.fullmatch(text):
        # A quote that the client left open would swallow what the proxy has added.
        yield None, None
        return
    for element in reversed(_ELEMENT.findall(text)):
        pairs = {name.lower(): quoted or bare for name, quoted, bare in _NAMED.findall(element)}
        yield _parse(pairs.get("for", "")), _scheme(pairs.get("proto", ""))


def _values(headers: Any, name: bytes) -> str:
    lines = [cast("bytes", value) for each, value in headers if each == name]
    return b",".join(lines).decode("latin-1")


def _scheme(text: str) -> str | None:
    scheme = text.strip().lower()
    return scheme if scheme in {"http", "https"} else None


def _parse(text: str) -> Address | None:
    text = text.strip()
    return _parsed(text) if len(text) <= _MAX_CHARACTERS else None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    if found := _BRACKETED.fullmatch(text) or _IPV4_WITH_PORT.fullmatch(text):
        text = found[1]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket that serves both families shows IPv4 clients like this.
    return getattr(address, "ipv4_mapped", None) or address
