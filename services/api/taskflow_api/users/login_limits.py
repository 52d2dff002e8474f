"""How often somebody may sign in, refresh and register: by address, account, session, mailbox."""

import hashlib
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from uuid import UUID

from taskflow.settings import ApiSettings
from taskflow_api.client_address import contains, limit_key
from taskflow_api.problems import TOO_MANY_REQUESTS, ProblemError
from taskflow_api.rate_limits.bucket import Policy
from taskflow_api.rate_limits.limits import RateLimits
from taskflow_api.rate_limits.takes import Bucket
from taskflow_api.users.mail_addresses import mailbox_of

ADDRESS_TIMES = 10
"""An address has as many times the attempts: an office is one."""

STRANGERS_TIMES = 5
"""All addresses together from which an account has not been signed in to have as many times."""

REGISTRATION_COST = 5
"""How many attempts of its address a registration takes."""

REFRESHES_TIMES = 3
"""A session is refreshed as many times as often as an account is tried: each leaves a row."""

MAILBOX_REGISTRATIONS, MAILBOX_SECONDS = 5, 86_400
"""How often a mailbox is registered from everywhere together, where each time sends it a mail."""


class LoginLimits:
    """Takes an attempt before it is made; who has none left is told when to come again.

    An attacker who uses up an account's attempts from everywhere keeps out addresses that are new
    to it, and not those from which its owner has signed in before.
    """

    def __init__(self, limits: RateLimits, settings: ApiSettings) -> None:
        attempts, seconds = settings.login_limit_attempts, settings.login_limit_seconds
        self._limits = limits
        self._pair = Policy("login-pair", attempts, seconds)
        self._address = Policy("login-address", attempts * ADDRESS_TIMES, seconds)
        self._strangers = Policy("login-strangers", attempts * STRANGERS_TIMES, seconds)
        self._refreshes = Policy("login-refresh", attempts * REFRESHES_TIMES, seconds)
        self._mailbox = Policy(
            "login-mailbox", MAILBOX_REGISTRATIONS * REGISTRATION_COST, MAILBOX_SECONDS
        )
        self._with_mail = bool(settings.smtp_host)
        self._unlimited: Sequence[IPv4Network | IPv6Network] = settings.unlimited_addresses

    async def take_attempt(self, email: str, address: str) -> None:
        """Before anything is looked up.

        Raises:
            ProblemError: 429, this address has tried too often, at this account or at all.
        """
        pair = Bucket(self._pair, f"{_name_of(email)}:{limit_key(address)}")
        await self._take([pair, *self._of_address(address)], cost=1)

    async def take_strangers_attempt(self, email: str) -> None:
        """Where the address has not signed in to the account before, or there is no account.

        Raises:
            ProblemError: 429, too many such addresses have tried.
        """
        await self._take([Bucket(self._strangers, _name_of(email))], cost=1)

    async def take_registration(self, email: str, address: str) -> None:
        """Before a registration, whether the address for mail is free or not.

        Raises:
            ProblemError: 429, this address has made too many, or tried too often to sign in; or
                too many have come for this mailbox.
        """
        buckets = self._of_address(address)
        if self._with_mail:
            buckets.append(Bucket(self._mailbox, _name_of(mailbox_of(email))))
        await self._take(buckets, cost=REGISTRATION_COST)

    async def take_refresh(self, session_id: UUID) -> None:
        """Before a refresh token of this session is used.

        Raises:
            ProblemError: 429, too many have been.
        """
        await self._take([Bucket(self._refreshes, str(session_id))], cost=1)

    def _of_address(self, address: str) -> list[Bucket]:
        if contains(self._unlimited, address):
            return []
        return [Bucket(self._address, limit_key(address))]

    async def _take(self, buckets: Sequence[Bucket], *, cost: int) -> None:
        taken = await self._limits.take_from(buckets, cost=cost)
        if taken is not None and not taken.granted:
            raise ProblemError(
                TOO_MANY_REQUESTS,
                "Too many attempts to sign in, to refresh or to register.",
                headers={"Retry-After": str(taken.retry_after_seconds())},
            )


def _name_of(email: str) -> str:
    """What stands for an account in Redis, which need not know whose it is."""
    return hashlib.sha256(email.encode("utf-8", "surrogatepass")).hexdigest()[:32]
