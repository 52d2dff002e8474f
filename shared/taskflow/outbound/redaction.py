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
_PARAMETER = re.compile(r"(?<=[?&])([^=&#]+)=([^&#]*)")
_WITH_URL = frozenset({"location", "content-location", "referer", "link", "refresh"})


def names_a_secret(name: str) -> bool:
    """Whether a header or a parameter of this name holds what nobody else should see."""
    return _SECRET_NAME.search(name) is not None and name.lower() not in _NO_SECRETS


def redacted_url(url: str) -> str:
    """The URL without the values of parameters that are secrets by their names."""
    return _PARAMETER.sub(
        lambda found: (
            f"{found[1]}={REDACTED}" if names_a_secret(unquote_plus(found[1])) else found[0]
        ),
        url,
    )


def redacted_headers(headers: Iterable[Header], secret: Iterable[str] = ()) -> dict[str, str]:
    """Headers by name, those of one name joined; the values of those in `secret` are left out."""
    secret_names = {name.lower() for name in secret}
    shown: dict[str, str] = {}
    for name, value in headers:
        known = next((each for each in shown if each.lower() == name.lower()), name)
        if name.lower() in secret_names or names_a_secret(name):
            shown[known] = REDACTED
            continue
        told = redacted_url(value) if name.lower() in _WITH_URL else value
        shown[known] = f"{shown[known]}, {told}" if known in shown else told
    return shown


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with each of these values blotted out, as a server may send them back."""
    for secret in secrets:
        if len(secret) >= LEAST_SECRET_CHARACTERS:
            text = text.replace(secret, REDACTED)
    return text
