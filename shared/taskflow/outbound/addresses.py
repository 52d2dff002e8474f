"""Which addresses requests may go to: public ones, and the inner networks that are opened.

The lists are our own and not `ipaddress.is_global`, whose answers differ between versions of
Python. For IPv6 they say what is allowed, for IPv4, which is used up, what isn't.
"""

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_NEVER = (
    ("0.0.0.0/8", "unspecified"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "unspecified"),
    ("ff00::/8", "multicast"),
    # Each carries an IPv4 address of somebody's choice past all that is said here.
    ("::/96", "IPv4-compatible"),
    ("64:ff9b:1::/48", "NAT64 of a local network"),
    ("2001::/32", "a Teredo tunnel"),
    ("2002::/16", "a 6to4 tunnel"),
)
_METADATA = frozenset(
    ip_address(address)
    for address in (
        "169.254.0.23",
        "169.254.42.42",
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",  # of Azure's own, in the midst of public addresses
        "192.0.0.192",
        "fd00:42::42",
        "fd00:c1::a9fe:a9fe",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fe80::a9fe:a9fe",
    )
)
_NOT_PUBLIC = (
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier (CGNAT)"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("240.0.0.0/4", "reserved"),
    ("::1/128", "loopback"),
    ("64:ff9b::/96", "NAT64"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "for documentation"),
    ("3fff::/20", "for documentation"),
)
_LOOPBACK = IPv6Address("::1")  # in the midst of the IPv4-compatible ones
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def _networks(named: Iterable[tuple[str, str]]) -> tuple[tuple[IPNetwork, str], ...]:
    return tuple((ip_network(network), why) for network, why in named)


_NEVER_NETWORKS = _networks(_NEVER)
_NOT_PUBLIC_NETWORKS = _networks(_NOT_PUBLIC)


class AddressRule:
    """Judges addresses; `allowed` are inner networks that are opened on purpose.

    A service for a cloud's metadata is opened by an entry for its one address alone, never by a
    network around it. Unspecified, multicast and tunnelled addresses can't be opened.
    """

    def __init__(self, allowed: Iterable[IPNetwork] = ()) -> None:
        self._allowed = tuple(allowed)

    def refusal(self, address: IPAddress) -> str | None:
        """What the address is that forbids it ("private"), or None where requests may go there."""
        address = _zoneless(unmapped(address))
        if address != _LOOPBACK and (never := _found(address, _NEVER_NETWORKS)) is not None:
            return never
        if isinstance(address, IPv6Address) and address in _NAT64:
            # Beyond the gateway it is the IPv4 address that counts.
            carried = self.refusal(IPv4Address(int(address) & 0xFFFF_FFFF))
            return carried or (None if self._is_allowed(address) else "NAT64")
        if address in _METADATA:
            return None if self._names(address) else "a cloud's metadata service"
        if self._is_allowed(address):
            return None
        if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
            return _found(address, _NOT_PUBLIC_NETWORKS) or "reserved"
        return _found(address, _NOT_PUBLIC_NETWORKS)

    def _is_allowed(self, address: IPAddress) -> bool:
        return any(address in network for network in self._allowed)

    def _names(self, address: IPAddress) -> bool:
        return any(address in network and network.num_addresses == 1 for network in self._allowed)


def unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address that `::ffff:a.b.c.d` stands for: it is where the kernel connects to."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _zoneless(address: IPAddress) -> IPAddress:
    """Without the interface by which it is reached (`fe80::1%eth0`), which makes it unequal."""
    return IPv6Address(int(address)) if isinstance(address, IPv6Address) else address


def _found(address: IPAddress, networks: Iterable[tuple[IPNetwork, str]]) -> str | None:
    return next((why for network, why in networks if address in network), None)
