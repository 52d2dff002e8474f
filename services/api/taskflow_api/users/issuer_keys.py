"""The keys that an issuer of tokens signs with, as it publishes them (RFC 7517)."""

import asyncio
import time
from collections.abc import Mapping
from contextvars import Context
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import jwt
import structlog

from taskflow.errors import ServiceUnavailable
from taskflow.outbound.addresses import AddressRule
from taskflow.outbound.client import Limits, OutboundClient
from taskflow.outbound.errors import OutboundError
from taskflow.outbound.requests import outbound_request
from taskflow.settings import OidcSettings
from taskflow_api.json_body import parse_json
from taskflow_api.problems import ProblemError

FRESH_SECONDS = 300.0
"""For how long keys are believed; who comes later sets off another look and waits for nothing."""

STALE_SECONDS = 600.0
"""Who comes later than this, where nobody came for so long, waits for that look."""

KEPT_SECONDS = 3_600.0
"""For how long they are used while the issuer can't be asked."""

AGAIN_SECONDS = 10.0
"""The least time between two looks, whatever keys are named."""

MAX_KEYS = 100
LIMITS = Limits(connect_seconds=2.0, total_seconds=4.0, body_bytes=256 * 1024)

_ASYMMETRIC_TYPES = frozenset({"RSA", "EC", "OKP"})
_OK = 200
# Who runs TaskFlow names the issuer, which may well be inside.
_ANYWHERE = AddressRule([IPv4Network("0.0.0.0/0"), IPv6Network("::/0")])

Keys = Mapping[tuple[str, str], jwt.PyJWK]
"""By the key's id and the algorithm."""

log = structlog.get_logger(__name__)


class IssuerUnusable(Exception):
    """The issuer does not answer, or not with keys."""


class IssuerKeys:
    """Fetches the keys when they are needed, one look at a time and not too often."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._client = OutboundClient(_ANYWHERE)
        self._keys: Keys = {}
        self._fetched_at = self._asked_at = float("-inf")
        self._is_away = False
        self._asking: asyncio.Task[None] | None = None

    async def find(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """The key of this name for this algorithm; None: the issuer has none.

        Raises:
            ServiceUnavailable: the issuer can't be asked.
        """
        age = time.monotonic() - self._fetched_at
        if age > KEPT_SECONDS:
            self._keys = {}
        key = self._keys.get((key_id, algorithm))
        if (key is None or age > FRESH_SECONDS) and self._may_ask():
            self._ask()
        is_good = key is not None and (age <= STALE_SECONDS or self._is_away)
        if self._asking is not None and not is_good:
            await asyncio.shield(self._asking)
            key = self._keys.get((key_id, algorithm))
        if key is None and self._is_away:
            raise ServiceUnavailable("The issuer of the token", "its keys can't be had")
        return key

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _may_ask(self) -> bool:
        return time.monotonic() - self._asked_at >= AGAIN_SECONDS

    def _ask(self) -> None:
        if self._asking is None:
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._fetch(), name="jwks", context=Context())

    async def _fetch(self) -> None:
        try:
            address = self._settings.oidc_jwks_url or await self._discover()
            self._keys = usable_keys(await self._get(address), self._settings.oidc_algorithms)
        except IssuerUnusable as error:
            self._is_away = True
            log.warning("issuer_unreachable", error=str(error))
        except Exception:
            self._is_away = True
            log.exception("issuer_keys_broke")
        else:
            self._is_away = False
            self._fetched_at = time.monotonic()
        finally:
            self._asking = None

    async def _discover(self) -> str:
        issuer = self._settings.oidc_issuer
        found = await self._get(issuer.rstrip("/") + "/.well-known/openid-configuration")
        address = found.get("jwks_uri")
        if found.get("issuer") != issuer or not isinstance(address, str):
            raise IssuerUnusable("its configuration is another issuer's, or names no jwks_uri")
        if issuer.startswith("https:") and not address.startswith("https:"):
            raise IssuerUnusable("its jwks_uri is not https")
        return address

    async def _get(self, address: str) -> Mapping[str, Any]:
        try:
            answer = await self._client.send(
                outbound_request("GET", address, [("Accept", "application/json")]), LIMITS
            )
            found = parse_json(answer.body)
        except OutboundError as error:
            raise IssuerUnusable(str(error)) from error
        except ProblemError as error:
            raise IssuerUnusable(f"{address} is no JSON: {error}") from error
        if answer.status != _OK or answer.is_truncated or not isinstance(found, dict):
            raise IssuerUnusable(f"{address} answers {answer.status}, or no object")
        return found


def usable_keys(document: Mapping[str, Any], algorithms: tuple[str, ...]) -> Keys:
    """The keys of a document that may check signatures; the first of a name counts.

    Raises:
        IssuerUnusable: there is none.
    """
    listed = document.get("keys")
    found: dict[tuple[str, str], jwt.PyJWK] = {}
    for entry in listed[:MAX_KEYS] if isinstance(listed, list) else ():
        if not _is_for_signatures(entry):
            continue
        for algorithm in algorithms:
            if entry.get("alg", algorithm) != algorithm:
                continue
            try:
                key = jwt.PyJWK(entry, algorithm=algorithm)
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                continue  # of another kind, or broken: there may be others
            found.setdefault((entry["kid"], algorithm), key)
    if not found:
        raise IssuerUnusable("it publishes no key that can be used")
    return found


def _is_for_signatures(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("kid"), str)
        and entry.get("kty") in _ASYMMETRIC_TYPES
        and entry.get("use", "sig") == "sig"
        # What is private or shared has no business there.
        and not entry.keys() & {"d", "k"}
    )
