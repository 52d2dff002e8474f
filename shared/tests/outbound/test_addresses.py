"""Which addresses requests may go to."""

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow.outbound.addresses import AddressRule, IPAddress

unhurried = settings(deadline=None)

INNER_IPV4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
STRICT = AddressRule()
OPEN = AddressRule([ip_network("0.0.0.0/0"), ip_network("::/0")])

inner_ipv4 = st.sampled_from(INNER_IPV4).flatmap(
    lambda network: st.ip_addresses(v=4, network=str(network))
)


def _within(network: str, carried: IPv4Address, shift: int = 0) -> IPv6Address:
    return IPv6Address(int(IPv6Network(network).network_address) | int(carried) << shift)


@unhurried
@given(inner_ipv4)
def test_no_inner_ipv4_address_in_whatever_disguise(address: IPv4Address) -> None:
    disguises: list[IPAddress] = [
        address,
        _within("::ffff:0:0/96", address),
        _within("::/96", address),
        _within("64:ff9b::/96", address),
        _within("64:ff9b:1::/48", address),
        _within("64:ff9b:1::/48", address, shift=48),
        _within("2002::/16", address, shift=80),
        _within("2001::/32", address, shift=64),
        _within("2001::/32", IPv4Address(int(address) ^ 0xFFFF_FFFF)),
    ]
    for disguise in disguises:
        assert STRICT.refusal(disguise), disguise


@unhurried
@given(st.ip_addresses(v=6))
def test_no_ipv6_address_outside_of_what_is_given_out(address: IPv6Address) -> None:
    if STRICT.refusal(address) is None:
        assert address in IPv6Network("2000::/3") or address.ipv4_mapped
        assert address.sixtofour is None
        assert address.teredo is None


@unhurried
@given(st.ip_addresses(v=4))
def test_what_python_calls_private_is_refused(address: IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved:
        assert STRICT.refusal(address)
    assert STRICT.refusal(address) == STRICT.refusal(_within("::ffff:0:0/96", address))


@unhurried
@given(st.ip_addresses(v=4))
def test_a_public_ipv4_address_is_free(address: IPv4Address) -> None:
    odd = [ip_network(each) for each in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16")]
    if address.is_global and not address.is_multicast and not any(address in n for n in odd):
        assert STRICT.refusal(address) is None


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.1", "127.0.0.1", "127.1.2.3", "169.254.169.254", "100.64.0.1", "10.1.2.3"),
        *("192.168.0.1", "172.31.255.255", "224.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808"),
        *(
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001:0:7f00:1::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
        ),
        *("ff02::1", "fec0::1", "2001:db8::1", "100::1", "3fff::1", "5f00::1", "4000::1"),
    ],
)
def test_these_are_refused(address: str) -> None:
    assert STRICT.refusal(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_these_are_free(address: str) -> None:
    assert STRICT.refusal(ip_address(address)) is None


@unhurried
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_an_opened_network_opens_itself_alone(address: IPAddress) -> None:
    rule = AddressRule([ip_network("10.20.0.0/16"), ip_network("fd12::/16")])
    if address in ip_network("10.20.0.0/16") or address in ip_network("fd12::/16"):
        assert rule.refusal(address) is None
    else:
        assert rule.refusal(address) == STRICT.refusal(address)


def test_a_mapped_address_counts_as_the_opened_ipv4_address() -> None:
    rule = AddressRule([ip_network("127.0.0.0/8")])
    assert rule.refusal(ip_address("::ffff:127.0.0.1")) is None
    assert rule.refusal(ip_address("::1"))


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"),
        *("0.0.0.1", "::", "224.0.0.1", "ff02::1", "255.255.255.255"),
        *("::127.0.0.1", "2002:7f00:1::", "2001:0:7f00:1::", "64:ff9b:1::7f00:1"),
        *("64:ff9b::a9fe:a9fe", "fe80::a9fe:a9fe", "fe80::a9fe:a9fe%eth0"),
        *("169.254.42.42", "fd00:42::42", "fd00:c1::a9fe:a9fe"),
    ],
)
def test_no_wide_network_opens_these(address: str) -> None:
    assert OPEN.refusal(ip_address(address))


def test_both_loopbacks_can_be_opened() -> None:
    assert STRICT.refusal(ip_address("::1")) == "loopback"
    rule = AddressRule([ip_network("::1"), ip_network("127.0.0.1")])
    assert rule.refusal(ip_address("::1")) is None
    assert rule.refusal(ip_address("127.0.0.1")) is None
    assert rule.refusal(ip_address("::2"))


def test_metadata_is_opened_by_its_own_address() -> None:
    rule = AddressRule([ip_network("169.254.169.254")])
    assert rule.refusal(ip_address("169.254.169.254")) is None
    assert rule.refusal(ip_address("169.254.170.2"))


def test_nat64_is_opened_for_what_lies_beyond_it_alone() -> None:
    rule = AddressRule([ip_network("64:ff9b::/96")])
    assert rule.refusal(ip_address("64:ff9b::808:808")) is None
    assert re.match("private", rule.refusal(ip_address("64:ff9b::a00:1")) or "")
