"""Entries of the cache as Redis has them: nobody reads them there, and nobody makes one up."""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class Seals:
    """AES-256-GCM, with a key for each name: what was sealed under one opens under no other."""

    def __init__(self, secret: str) -> None:
        """`secret`: known to every API process, and to nobody else."""
        self._secret = hmac.digest(secret.encode(), b"taskflow cache", hashlib.sha256)

    def seal(self, name: str, value: bytes) -> bytes:
        """The value, for Redis."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(name).encrypt(nonce, value, None)

    def open(self, name: str, sealed: bytes) -> bytes | None:
        """The value; None if it was not sealed under this name with our secret."""
        nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(name).decrypt(nonce, text, None)
        except (InvalidTag, ValueError):  # ValueError: it is shorter than any nonce.
            return None

    def _cipher(self, name: str) -> AESGCM:
        return AESGCM(hmac.digest(self._secret, name.encode(), hashlib.sha256))
