"""Access tokens of our own: JWTs of one algorithm, for a quarter of an hour."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
from uuid_utils.compat import uuid7

from taskflow.access.scopes import Scope
from taskflow_api.users.errors import InvalidToken
from taskflow_api.users.token_keys import TokenKeyRing

ALGORITHM = "HS256"
ISSUER = "taskflow"
AUDIENCE = "taskflow-api"
KIND = "at+jwt"
LEEWAY_SECONDS = 10
MAX_CHARACTERS = 8 * 1024
"""A longer token is not looked at."""

_IDS = ("tenant", "sub", "sid")
_REQUIRED = ["iss", "aud", "exp", "iat", "jti", "scope", *_IDS]


@dataclass(frozen=True, slots=True)
class Access:
    """What an access token says: whose session it is, and what it may do."""

    tenant_id: UUID
    user_id: UUID
    session_id: UUID
    scopes: frozenset[Scope]


class AccessTokens:
    """Signs them, and reads what was signed here."""

    def __init__(self, keys: TokenKeyRing, *, life_seconds: int) -> None:
        self._keys = keys
        self.life_seconds = life_seconds

    def issue(self, access: Access) -> str:
        """A token that is good from now on."""
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(access.user_id),
            "sid": str(access.session_id),
            "tenant": str(access.tenant_id),
            "scope": scope_text(access.scopes),
            "iat": now,
            "exp": now + timedelta(seconds=self.life_seconds),
            "jti": str(uuid7()),
        }
        key = self._keys.current
        headers = {"kid": key.id, "typ": KIND}
        return jwt.encode(claims, key.signing, algorithm=ALGORITHM, headers=headers)

    def read(self, token: str) -> Access:
        """What a token says.

        Raises:
            InvalidToken: it was not signed here, or its time is over.
        """
        header = header_of(token)
        key = self._keys.find(header.get("kid"))
        if key is None or header.get("typ") != KIND:
            raise InvalidToken("The token was not issued here.")
        try:
            claims = jwt.decode(
                token,
                key.signing,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED, "strict_aud": True},
            )
        except jwt.PyJWTError as error:
            raise InvalidToken(what_is_wrong(error)) from error
        try:
            tenant_id, user_id, session_id = (UUID(claims[name]) for name in _IDS)
        except (ValueError, AttributeError, TypeError):
            raise InvalidToken("The token is not valid.") from None
        return Access(tenant_id, user_id, session_id, scopes_in(str(claims["scope"]).split()))


def header_of(token: str) -> dict[str, Any]:
    """The header of a token, which nobody has vouched for.

    Raises:
        InvalidToken: it has no such form.
    """
    if len(token) > MAX_CHARACTERS:
        raise InvalidToken("The token is too long.")
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise InvalidToken("The token is malformed.") from None


def what_is_wrong(error: jwt.PyJWTError) -> str:
    """What may be said of a token that was refused; who forges one learns nothing from it."""
    if isinstance(error, jwt.ExpiredSignatureError):
        return "The token has expired."
    return "The token is not valid."


def scope_text(scopes: Iterable[Scope]) -> str:
    """Scopes as OAuth writes them."""
    return " ".join(sorted(scopes))


def scopes_in(names: Iterable[object]) -> frozenset[Scope]:
    """Those of these names that are scopes of ours."""
    wanted = set(map(str, names))
    return frozenset(scope for scope in Scope if scope in wanted)
