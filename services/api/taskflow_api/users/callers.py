"""Who comes with a token: one of ours, or one of the issuer that the settings name."""

from collections.abc import Sequence
from uuid import UUID

from taskflow.access import sessions
from taskflow.access.scopes import Actor, ActorKind
from taskflow.access.sessions import Owner
from taskflow.batching import Batcher, BatcherClosed
from taskflow.errors import ServiceUnavailable
from taskflow_api.auth import Principal
from taskflow_api.database_access import Lookups
from taskflow_api.recent import Recent
from taskflow_api.users.access_tokens import ALGORITHM, AccessTokens, header_of
from taskflow_api.users.errors import InvalidToken
from taskflow_api.users.external_tokens import ExternalTokens

ALIVE_SECONDS = 0.75
"""For how long a session is believed to go on: its end must be known everywhere within a second."""

MAX_LOOK_UPS = 500
"""How many sessions are looked up in one statement."""


class TokenCallers:
    """Makes principals of tokens."""

    def __init__(
        self, lookups: Lookups, access_tokens: AccessTokens, external: ExternalTokens | None
    ) -> None:
        self._lookups = lookups
        self._access_tokens = access_tokens
        self._external = external
        self._looks = Batcher(self._look, max_items=MAX_LOOK_UPS)
        self._owners: Recent[UUID, Owner | None] = Recent(self._looks.submit, seconds=ALIVE_SECONDS)

    async def principal_of(self, token: str) -> Principal:
        """Who comes with this token.

        Raises:
            InvalidToken: it is not one that is accepted, or its session has ended.
            ServiceUnavailable: who has to be asked about it is away.
        """
        # Each kind has its own algorithms and its own keys: none is checked with another's.
        if header_of(token).get("alg") == ALGORITHM:
            return await self._own(token)
        if self._external is None:
            raise InvalidToken("The token was not issued here.")
        return await self._external.principal_of(token)

    def forget(self, session_id: UUID) -> None:
        """Look at a session anew that has just ended."""
        self._owners.forget(session_id)

    async def close(self) -> None:
        """Look at no more sessions."""
        await self._looks.close()

    async def _own(self, token: str) -> Principal:
        access = self._access_tokens.read(token)
        try:
            owner = await self._owners.get(access.session_id)
        except BatcherClosed as error:
            raise ServiceUnavailable("The API", str(error)) from error
        # Who could sign a token would still need a session that is whose the token says.
        if owner != Owner(access.tenant_id, access.user_id):
            raise InvalidToken("The session of the token has ended.")
        actor = Actor(ActorKind.USER, str(access.user_id))
        return Principal(access.tenant_id, actor, access.scopes, session_id=access.session_id)

    async def _look(self, session_ids: Sequence[UUID]) -> Sequence[Owner | None]:
        async with self._lookups.connection() as connection:
            owners = await sessions.owners_of(connection, session_ids)
        return [owners.get(session_id) for session_id in session_ids]
