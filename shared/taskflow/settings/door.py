"""Whom the API lets in, how much each may ask, and what it keeps for them."""

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from pydantic import Field, field_validator

from taskflow.setting_types import CommaSeparated, Networks
from taskflow.settings.base import Settings

_HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")


class DoorSettings(Settings):
    """Whom the API lets in: its names, pages, proxies, and how often an address may ask."""

    max_body_bytes: int = Field(256 * 1024, ge=1024)
    allowed_hosts: CommaSeparated = ("localhost", "api")
    cors_origins: CommaSeparated = ()
    trusted_proxies: Networks = ()
    forwarded_header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For"
    address_limit_requests: int = Field(6_000, ge=0)
    address_limit_seconds: int = Field(60, ge=1, le=86_400)
    unlimited_addresses: Networks = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a name of a host (*.example.com for all below)")
        return tuple(name.lower() for name in value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin like https://example.com:8443")
        return value


class LimitSettings(Settings):
    """How much a tenant and a key may ask of all API processes; 0 is any number."""

    tenant_limit_requests: int = Field(300_000, ge=0, le=10_000_000)
    tenant_limit_seconds: int = Field(60, ge=1, le=86_400)
    key_limit_requests: int = Field(0, ge=0, le=10_000_000)
    key_limit_seconds: int = Field(60, ge=1, le=86_400)
    limit_local_share: float = Field(0.5, gt=0, le=1)


class CacheSettings(Settings):
    """How long the API keeps what never changes, and what of it; 0 seconds is not at all."""

    cache_seconds: float = Field(60.0, ge=0, le=86_400)
    cache_entry_max_bytes: int = Field(1024 * 1024, ge=1024, le=16 * 1024 * 1024)
    cache_process_max_bytes: int = Field(32 * 1024 * 1024, ge=1024)
