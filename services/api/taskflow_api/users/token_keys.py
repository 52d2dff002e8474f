"""The secrets that our own tokens hang on: the current one, and the one before it."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from taskflow import api_key
from taskflow.settings import ApiSettings

log = structlog.get_logger(__name__)


def token_secret_of(settings: ApiSettings) -> str:
    """The secret of the settings, else one that follows from the API key."""
    own = settings.jwt_secret.get_secret_value()
    if own:
        return own
    key = settings.api_key.get_secret_value()
    try:
        api_key.parse(key)
    except api_key.MalformedApiKey:
        # Whoever has a token can try keys on it, as fast as they like.
        log.warning("token_secret_guessable", setting="TASKFLOW_JWT_SECRET")
    derived = HKDF(SHA256(), length=32, salt=None, info=b"taskflow token secret")
    return derived.derive(key.encode()).hex()


@dataclass(frozen=True, slots=True)
class Key:
    """What one secret is used for, each with bytes of its own."""

    id: str
    signing: bytes = field(repr=False)
    """Signs access tokens."""
    deriving: bytes = field(repr=False)
    """Makes a refresh token of the one before it."""


class TokenKeyRing:
    """The first key makes tokens, all of them are accepted."""

    def __init__(self, secret: str, previous_secret: str = "") -> None:
        """`previous_secret`: may be none."""
        self.keys: Sequence[Key] = [_key(text) for text in (secret, previous_secret) if text]

    @property
    def current(self) -> Key:
        """The key that tokens are made with."""
        return self.keys[0]

    def find(self, key_id: object) -> Key | None:
        """The key that a token names, or None."""
        return next((key for key in self.keys if key.id == key_id), None)


def _key(secret: str) -> Key:
    def derived(purpose: bytes) -> bytes:
        return hmac.digest(secret.encode(), b"taskflow " + purpose, hashlib.sha256)

    return Key(derived(b"key id").hex()[:16], derived(b"signing"), derived(b"deriving"))
