"""The form of an API key: made, and checked for typing mistakes before anything is looked up.

`tf_live_<key id>_<secret><checksum>`: the prefix lets secret scanners find a leaked key, the id
names it in lists and logs, and the checksum tells a mistyped key from a revoked one.
"""

import hashlib
import secrets
import string
import zlib
from dataclasses import dataclass, field

from taskflow.errors import TaskFlowError

PREFIX = "tf_live"
KEY_ID_LENGTH = 8
SECRET_LENGTH = 32  # of 62 characters: 190 bits
CHECKSUM_LENGTH = 6  # 62 ** 6 > 2 ** 32

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase


class MalformedApiKey(TaskFlowError):
    """Not a key that `generate` has made: mistyped, cut off, or something else altogether."""


@dataclass(frozen=True)
class ApiKey:
    """A well-formed key; whether it is known is the database's to say."""

    key_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole key, as its owner sends it."""
        body = f"{prefix_of(self.key_id)}_{self.secret}"
        return body + _checksum(body)

    @property
    def digest(self) -> bytes:
        """What is kept of it."""
        return digest_of(self.text)


def generate() -> ApiKey:
    """A new key from the system's source of randomness."""
    return ApiKey(_random_text(KEY_ID_LENGTH), _random_text(SECRET_LENGTH))


def parse(text: str) -> ApiKey:
    """Read a key.

    Raises:
        MalformedApiKey: its form or its checksum is wrong; the text does not repeat the key.
    """
    prefix, _, rest = text.rpartition("_")
    kind, _, key_id = prefix.rpartition("_")
    key = ApiKey(key_id, rest[:-CHECKSUM_LENGTH])
    is_whole = (
        kind == PREFIX
        and len(key.key_id) == KEY_ID_LENGTH
        and len(key.secret) == SECRET_LENGTH
        and set(key.key_id + key.secret) <= set(_ALPHABET)
    )
    if not is_whole or text != key.text:
        raise MalformedApiKey("The API key is not whole: it was mistyped or cut off.")
    return key


def prefix_of(key_id: str) -> str:
    """How the key with this id begins; no secret."""
    return f"{PREFIX}_{key_id}"


def digest_of(text: str) -> bytes:
    """The SHA-256 of a key's text, or of anything that came in the place of one."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
