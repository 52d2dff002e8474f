"""Tokens of the issuer that the settings name (OpenID Connect, or any other that signs JWTs)."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import jwt

from taskflow.access.scopes import Actor, ActorKind
from taskflow.access.tenants import tenant_named
from taskflow.settings import OidcSettings
from taskflow_api.auth import Principal
from taskflow_api.database_access import Lookups
from taskflow_api.recent import Recent
from taskflow_api.users.access_tokens import header_of, scopes_in, what_is_wrong
from taskflow_api.users.errors import InvalidToken
from taskflow_api.users.issuer_keys import IssuerKeys

LEEWAY_SECONDS = 30
TENANT_SECONDS = 60.0
"""For how long the tenant of a name is believed to be there, or not to be."""

MAX_CLAIM_CHARACTERS = 255

_KINDS = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_REQUIRED = ["iss", "aud", "exp", "iat", "sub"]


class ExternalTokens:
    """Makes principals of them."""

    def __init__(self, settings: OidcSettings, lookups: Lookups) -> None:
        self._settings = settings
        self._lookups = lookups
        self._keys = IssuerKeys(settings)
        self._tenants: Recent[str, UUID | None] = Recent(self._find_tenant, seconds=TENANT_SECONDS)

    async def principal_of(self, token: str) -> Principal:
        """Who comes with this token.

        Raises:
            InvalidToken: it is not one that is accepted.
            ServiceUnavailable: the issuer or PostgreSQL can't be asked.
        """
        claims = await self._claims_of(token)
        named = _text_in(claims, self._settings.oidc_tenant_claim)
        tenant_id = await self._tenants.get(named)
        if tenant_id is None:
            raise InvalidToken("The token names no tenant of this service.")
        actor = Actor(ActorKind.USER, f"oidc:{_text_in(claims, 'sub')}")
        scopes = claims.get(self._settings.oidc_scopes_claim)
        names = scopes.split() if isinstance(scopes, str) else scopes
        return Principal(tenant_id, actor, scopes_in(names if isinstance(names, list) else ()))

    async def close(self) -> None:
        """Ask the issuer no more."""
        await self._keys.close()

    async def _claims_of(self, token: str) -> Mapping[str, Any]:
        # Of the header nothing is believed but which of the issuer's own keys is meant.
        header = header_of(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.oidc_algorithms or not isinstance(key_id, str):
            raise InvalidToken("The token is not signed as it must be.")
        if str(header.get("typ", "JWT")).lower() not in _KINDS:
            raise InvalidToken("The token is for something else.")
        key = await self._keys.find(key_id, algorithm)
        if key is None:
            raise InvalidToken("The token is signed with a key that its issuer doesn't have.")
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.oidc_audience,
                issuer=self._settings.oidc_issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED, "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            raise InvalidToken(what_is_wrong(error)) from error
        except (OverflowError, ValueError, TypeError):
            raise InvalidToken("The token has claims that can't be read.") from None

    async def _find_tenant(self, named: str) -> UUID | None:
        async with self._lookups.connection() as connection:
            return await tenant_named(connection, named)


def _text_in(claims: Mapping[str, Any], name: str) -> str:
    text = claims.get(name)
    if not isinstance(text, str) or not 0 < len(text) <= MAX_CLAIM_CHARACTERS:
        raise InvalidToken(f"The token has no usable claim {name}.")
    # PostgreSQL stores neither, and a log is the poorer for them.
    if not text.isprintable():
        raise InvalidToken(f"The claim {name} has characters that can't be shown.")
    return text
