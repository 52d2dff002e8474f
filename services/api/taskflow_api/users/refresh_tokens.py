"""Refresh tokens: texts that mean nothing, of which only a hash is kept.

A token's successor is made from it by a key of ours. Who has lost the answer and asks again gets
the very same one, without its text being kept anywhere.
"""

import base64
import hashlib
import hmac
import re
import secrets

from taskflow_api.users.token_keys import Key

PREFIX = "tf_refresh_"
MAX_CHARACTERS = 100

_FORM = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


def new() -> str:
    """The first token of a session, of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def successor(token: str, key: Key) -> str:
    """The token after this one."""
    made = hmac.digest(key.deriving, token.encode(), hashlib.sha256)
    return PREFIX + base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def is_well_formed(token: str) -> bool:
    """Whether it is worth looking for."""
    return _FORM.fullmatch(token) is not None


def digest(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).digest()
