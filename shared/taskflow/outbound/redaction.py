"""What of a request may be written down: names, and the values of those that are no secrets."""

import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from taskflow.outbound.requests import Header

REDACTED = "[redacted]"
LEAST_SECRET_CHARACTERS = 8
"""A shorter one is found everywhere by chance."""

_SECRET_NAME = re.compile(
    r"auth|cookie|token|secret|passw|passphrase|pwd|api[-_]?key|access[-_]?key|credential|session"
    r"|signature|^(sig|key|code|state|assertion|jwt)$",
    re.IGNORECASE,
)
# They say what is wanted, not what is had.
_NO_SECRETS = frozenset(
    {"www-authenticate", "proxy-authenticate", "access-control-allow-credentials"}
)
# No name goes across a "?": that would look at the rest anew from each of many of them.
_PARAMETER = re.compile(r"(?<=[?&#])([^?&#=]+)=([^&#]*)")
_WITH_URL = frozenset({"location", "content-location", "referer", "link", "refresh"})


def names_a_secret(name: str) -> bool:
    """Whether a header or a parameter of this name holds what nobody else should see."""
    return _SECRET_NAME.search(name) is not None and name.lower() not in _NO_SECRETS


def redacted_url(url: str) -> str:
    """The URL without the values of parameters, in its fragment too, that name a secret."""
    return _PARAMETER.sub(
        lambda found: (
            f"{found[1]}={REDACTED}" if names_a_secret(unquote_plus(found[1])) else found[0]
        ),
        url,
    )


def redacted_headers(headers: Iterable[Header], secret: Iterable[str] = ()) -> dict[str, str]:
    """Headers by name, those of one name joined; the values of those in `secret` are left out."""
    secret_names = {name.lower() for name in secret}
    spelled: dict[str, str] = {}
    shown: dict[str, list[str]] = {}
    for name, value in headers:
        lower = name.lower()
        known = spelled.setdefault(lower, name)
        if lower in secret_names or names_a_secret(name):
            shown[known] = [REDACTED]
        else:
            told = redacted_url(value) if lower in _WITH_URL else value
            shown.setdefault(known, []).append(told)
    return {name: ", ".join(values) for name, values in shown.items()}


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with each of these values blotted out, as a server may send them back."""
    for secret in secrets:
        if len(secret) >= LEAST_SECRET_CHARACTERS:
            text = text.replace(secret, REDACTED)
    return text
