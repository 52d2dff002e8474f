"""All that users need, made of the settings."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from taskflow.relay import Relay
from taskflow.sealing.ring import SealingKeyRing
from taskflow.settings import ApiSettings
from taskflow_api.database_access import Lookups, Writes
from taskflow_api.rate_limits.limits import RateLimits
from taskflow_api.users.access_tokens import AccessTokens
from taskflow_api.users.callers import TokenCallers
from taskflow_api.users.external_tokens import ExternalTokens
from taskflow_api.users.login_limits import LoginLimits
from taskflow_api.users.passwords import Passwords
from taskflow_api.users.registration import Registrations
from taskflow_api.users.sign_in import SignIn
from taskflow_api.users.token_keys import TokenKeyRing


@dataclass(frozen=True, slots=True)
class Users:
    """What routes work with."""

    callers: TokenCallers
    registrations: Registrations
    sign_in: SignIn
    limits: LoginLimits
    access_token_seconds: int


def open_users(
    settings: ApiSettings,
    stack: AsyncExitStack,
    *,
    lookups: Lookups,
    writes: Writes,
    relay: Relay,
    rate_limits: RateLimits,
    ring: SealingKeyRing,
    token_secret: str,
) -> Users:
    """They are closed with the stack."""
    passwords = Passwords()
    stack.callback(passwords.close)
    keys = TokenKeyRing(token_secret, settings.jwt_previous_secret.get_secret_value())
    access_tokens = AccessTokens(keys, life_seconds=settings.access_token_seconds)
    external = None
    if settings.oidc_issuer:
        external = ExternalTokens(settings, lookups)
        stack.push_async_callback(external.close)
    limits = LoginLimits(rate_limits, settings)
    sign_in = SignIn(
        lookups,
        writes,
        passwords,
        limits=limits,
        keys=keys,
        access_tokens=access_tokens,
        session_seconds=settings.session_seconds,
    )
    stack.push_async_callback(sign_in.close)
    callers = TokenCallers(lookups, access_tokens, external)
    stack.push_async_callback(callers.close)
    return Users(
        callers,
        Registrations(
            writes,
            passwords,
            relay,
            ring,
            is_open=settings.registration_open,
            with_mail=bool(settings.smtp_host),
        ),
        sign_in,
        limits,
        settings.access_token_seconds,
    )
