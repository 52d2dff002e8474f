"""Sealing what jobs hold before it is stored: AES-256-GCM, bound to its job and its place there.

What is sealed says by which key, so that several may be in use: see docs/decisions/0025-sealing.md.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from taskflow.errors import PayloadKeyMissing, SealBroken
from taskflow.sealing.form import PLAIN, SEALED, sealed_by
from taskflow.sealing.keys import NO_KEY, parse_payload_keys

NONCE_BYTES = 12


class Part(StrEnum):
    """What of a job is sealed."""

    PAYLOAD = "payload"
    RESULT = "result"
    CHECKPOINT = "checkpoint"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something sealed belongs; moved to another place, it doesn't open."""

    tenant_id: UUID
    job_id: UUID
    part: Part

    @property
    def bound(self) -> bytes:
        """What the seal vouches for beside the content."""
        return f"taskflow 1 {self.tenant_id} {self.job_id} {self.part}".encode()


class SealingKeyRing:
    """The keys of TASKFLOW_PAYLOAD_KEYS. Without any, nothing is sealed and nothing sealed opens.

    Opening raises PayloadKeyMissing, or SealBroken where the content is not what was sealed there.
    """

    def __init__(self, keys: Mapping[str, bytes | None]) -> None:
        self._keys = {key_id: key for key_id, key in keys.items() if key is not None}
        first = next(iter(keys), NO_KEY)
        self.seals_with = None if first == NO_KEY else first

    @classmethod
    def of(cls, setting: str) -> "SealingKeyRing":
        """The keys that the setting names; raises ValueError if it is malformed."""
        return cls(parse_payload_keys(setting))

    def __repr__(self) -> str:
        return f"SealingKeyRing({', '.join(self._keys)})"

    @property
    def key_ids(self) -> list[str]:
        """What it can open."""
        return list(self._keys)

    def sealed_payload(self, tenant_id: UUID, job_id: UUID, payload: object) -> str | None:
        """What is stored in a payload's place; None: the payload, as it is."""
        if self.seals_with is None:
            return None
        return self.seal_text(Place(tenant_id, job_id, Part.PAYLOAD), json.dumps(payload))

    def seal_text(self, place: Place, text: str) -> str:
        """The text to store."""
        if self.seals_with is not None:
            sealed = base64.b64encode(self._encrypt(self.seals_with, place, text.encode()))
            return f"{SEALED}{self.seals_with}:{sealed.decode()}"
        return PLAIN + text if text.startswith((SEALED, PLAIN)) else text

    def open_text(self, place: Place, stored: str) -> str:
        """The text that was stored."""
        if stored.startswith(PLAIN):
            return stored[len(PLAIN) :]
        key_id = sealed_by(stored)
        if key_id is None:
            return stored
        try:
            content = base64.b64decode(stored.rpartition(":")[2], validate=True)
        except ValueError as error:
            raise SealBroken(place.job_id, place.part) from error
        return self._decrypt(key_id, place, content).decode()

    def seal_json(self, place: Place, value_json: str) -> str:
        """The JSON document to store: a text of ours, or what was given."""
        if self.seals_with is not None:
            return json.dumps(self.seal_text(place, value_json))
        if value_json.lstrip()[:1] == '"' and _is_like_ours(json.loads(value_json)):
            return json.dumps(PLAIN + value_json)
        return value_json

    def open_json(self, place: Place, stored_json: str) -> str:
        """The JSON document that was stored."""
        if not stored_json.startswith('"') or not _is_like_ours(text := json.loads(stored_json)):
            return stored_json
        return self.open_text(place, text)

    def open_value(self, place: Place, stored: Any) -> Any:
        """The value that was stored, from the value of the stored document."""
        return json.loads(self.open_text(place, stored)) if _is_like_ours(stored) else stored

    def seal_object(self, place: Place, content: bytes) -> bytes:
        """What to store as an object of its own; the content is a JSON document."""
        if self.seals_with is None:
            return content
        head = f"{SEALED}{self.seals_with}:".encode()
        return head + self._encrypt(self.seals_with, place, content)

    def open_object(self, place: Place, stored: bytes) -> bytes:
        """The content of such an object."""
        # No JSON document begins like this.
        if not stored.startswith(SEALED.encode()):
            return stored
        key_id, _, sealed = stored[len(SEALED) :].partition(b":")
        return self._decrypt(key_id.decode(errors="replace"), place, sealed)

    def fingerprints(self, tenant_id: UUID, content: bytes) -> list[bytes]:
        """What stands for a request, and says nothing of it to who has no key; 32 bytes each.

        The first is to be stored; one that was stored under another key is among the others.
        """
        keyed = {
            key_id: hmac.digest(key, b"fingerprint" + tenant_id.bytes + content, "sha256")
            for key_id, key in self._keys.items()
        }
        bare = hashlib.sha256(content).digest()
        first = bare if self.seals_with is None else keyed[self.seals_with]
        return list(dict.fromkeys([first, *keyed.values(), bare]))

    def _encrypt(self, key_id: str, place: Place, content: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher(key_id, place).encrypt(nonce, content, place.bound)

    def _decrypt(self, key_id: str, place: Place, sealed: bytes) -> bytes:
        if key_id not in self._keys:
            raise PayloadKeyMissing(key_id)
        nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return self._cipher(key_id, place).decrypt(nonce, content, place.bound)
        except (InvalidTag, ValueError) as error:
            raise SealBroken(place.job_id, place.part) from error

    def _cipher(self, key_id: str, place: Place) -> AESGCM:
        # A key for each job: random nonces under a single one would be used up after 2^32 seals.
        job = place.tenant_id.bytes + place.job_id.bytes
        return AESGCM(hmac.digest(self._keys[key_id], b"job" + job, "sha256"))


def _is_like_ours(value: Any) -> bool:
    return isinstance(value, str) and value.startswith((SEALED, PLAIN))
