"""The secrets that our own tokens hang on: the current one, and the one before it."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from taskflow.settings import UserSettings


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

    def __init__(self, settings: UserSettings) -> None:
        secrets = (settings.jwt_secret, settings.jwt_previous_secret)
        texts = [secret.get_secret_value() for secret in secrets]
        self.keys: Sequence[Key] = [_key(text) for text in texts if text]

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
