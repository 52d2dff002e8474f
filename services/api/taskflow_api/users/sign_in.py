"""Signing in and out: a password for a session, a refresh token for the next, an end to it."""

import asyncio
from collections.abc import Iterable
from contextvars import Context
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from taskflow.access import sessions, users
from taskflow.access.audit_log import Act, record
from taskflow.access.scopes import ALL_SCOPES, Scope
from taskflow.access.sessions import EndReason, Session
from taskflow.access.users import KnownUser
from taskflow.errors import ServiceUnavailable
from taskflow_api.client_address import limit_key
from taskflow_api.database_access import Lookups, Writes
from taskflow_api.users import refresh_tokens
from taskflow_api.users.access_tokens import Access, AccessTokens
from taskflow_api.users.errors import SignInRefused
from taskflow_api.users.login_limits import LoginLimits
from taskflow_api.users.mail_addresses import normal_address
from taskflow_api.users.passwords import Passwords
from taskflow_api.users.token_keys import TokenKeyRing
from taskflow_api.users.visits import Visit

_MAX_NOTES = 100
"""How many refusals may wait to be written down; those beyond are only logged."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pair of tokens, and what the first of them may do."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    scopes: frozenset[Scope]


class SignIn:
    """Gives tokens for what proves who somebody is."""

    def __init__(
        self,
        lookups: Lookups,
        writes: Writes,
        passwords: Passwords,
        *,
        limits: LoginLimits,
        keys: TokenKeyRing,
        access_tokens: AccessTokens,
        session_seconds: int,
    ) -> None:
        self._lookups = lookups
        self._writes = writes
        self._passwords = passwords
        self._limits = limits
        self._keys = keys
        self._access_tokens = access_tokens
        self._session_seconds = session_seconds
        self._notes: set[asyncio.Task[None]] = set()

    async def with_password(
        self, account: str, password: str, wanted: Iterable[Scope], visit: Visit
    ) -> Tokens:
        """Begin a session; without wanted scopes its tokens have all that the user has.

        Raises:
            SignInRefused: there is no such user, it is disabled, or has another password.
            ProblemError: 429, too many attempts.
            ServiceUnavailable: PostgreSQL can't be asked, or too many passwords wait.
        """
        user = await self._recognise(account, password, visit)
        session = Session(uuid7(), user.tenant_id, user.id, frozenset(wanted) or ALL_SCOPES)
        token = refresh_tokens.new()
        renewed = None
        if self._passwords.is_outdated(user.password_hash):
            renewed = await self._passwords.hash(password)
        async with self._writes.connection(user.tenant_id) as connection, connection.transaction():
            if renewed is not None:
                await users.set_password_hash(connection, user.id, renewed)
            await sessions.begin(
                connection,
                session,
                token_hash=refresh_tokens.digest(token),
                address=limit_key(visit.address),
                life_seconds=self._session_seconds,
            )
            act = Act("user.login", "session", str(session.id))
            await record(connection, user.tenant_id, visit.of_user(user.id), act)
        return self._tokens(session, token)

    async def with_refresh_token(self, token: str, visit: Visit) -> Tokens:
        """The next pair of tokens of a session.

        Raises:
            SignInRefused: its session is over, or it was used before, which ends its session.
            ProblemError: 429, too many tokens of the session have been used.
            ServiceUnavailable: PostgreSQL can't be asked; the same token may be sent again soon.
        """
        if not refresh_tokens.is_well_formed(token):
            raise _no_good()
        token_hash = refresh_tokens.digest(token)
        async with self._lookups.connection() as connection:
            family = await sessions.find_family(connection, token_hash)
        if family is None:
            raise _no_good()
        await self._limits.take_refresh(family.session_id)
        made = [refresh_tokens.successor(token, key) for key in self._keys.keys]
        by_hash = {refresh_tokens.digest(each): each for each in made}
        async with (
            self._writes.connection(family.tenant_id) as connection,
            connection.transaction(),
        ):
            rotated = await sessions.rotate(connection, family, token_hash, list(by_hash))
            if rotated is not None and rotated.successor is None:
                session = rotated.session
                log.warning("session_ended_by_reuse", session_id=str(session.id))
                act = Act("user.token_reuse", "session", str(session.id))
                await record(connection, family.tenant_id, visit.of_user(session.user_id), act)
        if rotated is None or rotated.successor is None:
            raise _no_good()
        return self._tokens(rotated.session, by_hash[rotated.successor])

    async def out(self, tenant_id: UUID, user_id: str, session_id: UUID, visit: Visit) -> None:
        """End a session; again does no harm.

        Raises:
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        async with self._writes.connection(tenant_id) as connection, connection.transaction():
            if await sessions.end(connection, session_id, EndReason.LOGOUT):
                act = Act("user.logout", "session", str(session_id))
                await record(connection, tenant_id, visit.of_user(user_id), act)

    async def close(self) -> None:
        """Return when all refusals are written down."""
        await asyncio.gather(*self._notes, return_exceptions=True)

    async def _recognise(self, account: str, password: str, visit: Visit) -> KnownUser:
        """The user, who is not disabled and whose password this is; an attempt is used up."""
        await self._limits.take_attempt(account.lower(), visit.address)
        user = await self._find(account, visit)
        if user is None or not user.is_at_home:
            await self._limits.take_strangers_attempt(account.lower())
        known = user.password_hash if user is not None else None
        is_right = await self._passwords.is_right(password, known)
        if user is None:
            raise _refused()
        if not is_right or user.is_disabled:
            self._note_refusal(user, visit)
            raise _refused()
        return user

    async def _find(self, account: str, visit: Visit) -> KnownUser | None:
        email = normal_address(account)
        if email is None:
            return None
        async with self._lookups.connection() as connection:
            return await users.find_user(connection, email, limit_key(visit.address))

    def _note_refusal(self, user: KnownUser, visit: Visit) -> None:
        """Beside the answer, which must not take longer for a user that there is."""
        log.info("login_refused", user_id=str(user.id))
        if len(self._notes) < _MAX_NOTES:
            note = asyncio.create_task(
                self._write_refusal(user, visit), name="note-refusal", context=Context()
            )
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)

    async def _write_refusal(self, user: KnownUser, visit: Visit) -> None:
        act = Act("user.login_refused", "user", str(user.id))
        try:
            async with self._writes.connection(user.tenant_id) as connection:
                await record(connection, user.tenant_id, visit.of_user(user.id), act)
        except ServiceUnavailable as error:
            log.warning("login_refusal_not_recorded", user_id=str(user.id), error=str(error))

    def _tokens(self, session: Session, refresh_token: str) -> Tokens:
        access = Access(session.tenant_id, session.user_id, session.id, session.scopes)
        return Tokens(self._access_tokens.issue(access), refresh_token, session.scopes)


def _refused() -> SignInRefused:
    return SignInRefused("The address or the password is not right.")


def _no_good() -> SignInRefused:
    return SignInRefused("The refresh token is no good any more. Sign in again.")
