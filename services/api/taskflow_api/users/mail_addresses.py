"""Addresses for mail, as users are known by them."""

import re

from taskflow.settings import MAILBOX

MAX_CHARACTERS = 254
PATTERN = r"^[^\s<>@,;\"\\]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$"
"""For whoever reads the schema; a few that it lets through are refused all the same."""

_MAX_LOCAL_CHARACTERS = 64
_LOCAL = re.compile(rf"[^@]{{1,{_MAX_LOCAL_CHARACTERS}}}@")


def normal_address(text: str) -> str | None:
    """The one form of an address, in lower case; None: it isn't one."""
    found = MAILBOX.fullmatch(text)
    if len(text) > MAX_CHARACTERS or found is None or found["bare"] is None:
        return None
    return text.lower() if _LOCAL.match(text) else None


def mailbox_of(address: str) -> str:
    """Where mail to an address arrives, as far as can be told: providers ignore dots, or a tag."""
    local, _, domain = address.rpartition("@")
    return f"{local.partition('+')[0].replace('.', '')}@{domain}"
