"""The forms that settings come in, and what is said of one that has none of them."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from taskflow.sealing.keys import parse_payload_keys
from taskflow.tls import authorities_file

LAST_PORT = 65_535


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _parse_networks(value: object) -> object:
    # An empty variable means the default, so there is a word for nothing.
    if not isinstance(value, str) or value.strip().lower() == "none":
        return () if isinstance(value, str) else value
    try:
        return tuple(ip_network(part.strip()) for part in value.split(","))
    except ValueError as error:
        raise ValueError(f"{error}; write addresses and networks like 10.0.0.0/8,::1") from error


def _with_ports(value: SecretStr) -> SecretStr:
    """An address, or several: what is wrong with it is said here, not by the client that meets it.

    The message must not repeat the address, which has a password.
    """
    for address in re.split(r",\s*(?=\w+://)", value.get_secret_value()):
        # By hand: the errors of urlsplit repeat what they don't understand.
        authority = re.split("[/?#]", address.partition("://")[2], maxsplit=1)[0]
        for host in authority.rpartition("@")[2].split(","):
            port = host.rpartition("]")[2].partition(":")[2]
            if port and not (port.isdecimal() and int(port) <= LAST_PORT):
                raise ValueError(
                    f"has a port that is no number up to {LAST_PORT}; a / ? # @ or : in a"
                    " password is written %2F %3F %23 %40 %3A"
                )
    return value


def _redis(value: SecretStr) -> SecretStr:
    if not re.match(r"(rediss?|unix)://", value.get_secret_value()):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return value


def _http(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+/?", value):
        raise ValueError("must be http://host:port or https://host:port")
    _with_ports(SecretStr(value))
    return value.rstrip("/")


def _authorities(value: str) -> str:
    return authorities_file(value) if value else value


def _payload_keys(value: SecretStr) -> SecretStr:
    parse_payload_keys(value.get_secret_value())
    return value


Network = IPv4Network | IPv6Network
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_parse_networks)]
Port = Annotated[int, Field(ge=1, le=LAST_PORT)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Address = Annotated[SecretStr, AfterValidator(_with_ports)]
RedisAddress = Annotated[SecretStr, AfterValidator(_redis), AfterValidator(_with_ports)]
HttpAddress = Annotated[str, AfterValidator(_http)]
PayloadKeys = Annotated[SecretStr, AfterValidator(_payload_keys)]
AuthoritiesFile = Annotated[str, AfterValidator(_authorities)]
