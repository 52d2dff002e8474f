"""The setting TASKFLOW_PAYLOAD_KEYS: `id:base64,…`, the first key seals, every key opens."""

import base64
import binascii
import re
from collections.abc import Mapping

KEY_BYTES = 32
NO_KEY = "none"
"""In the place of the first key: nothing new is sealed, and what was sealed is still opened."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


def parse_payload_keys(text: str) -> Mapping[str, bytes | None]:
    """The keys by their ids, in their order; `NO_KEY`, which can only be the first, is None.

    Raises:
        ValueError: it has another form; what is said repeats no key.
    """
    keys: dict[str, bytes | None] = {}
    for number, entry in enumerate(part.strip() for part in text.split(",") if part.strip()):
        if entry == NO_KEY and number == 0:
            keys[NO_KEY] = None
            continue
        key_id, colon, encoded = entry.partition(":")
        if not (colon and _ID.fullmatch(key_id)) or key_id == NO_KEY:
            raise ValueError(
                f"entry {number + 1} must be id:key, with an id of 1-32 of A-Z a-z 0-9 _ -"
            )
        if key_id in keys:
            raise ValueError(f"the key {key_id} is there twice")
        keys[key_id] = _decoded(key_id, encoded)
    return keys


def _decoded(key_id: str, encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        # Not from the error above, which may repeat the key.
        raise ValueError(
            f"the key {key_id} must be {KEY_BYTES} random bytes in base64: openssl rand -base64 32"
        ) from None
    return key
