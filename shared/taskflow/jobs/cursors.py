"""A page's cursor: opaque to clients, bound to the list that it came from."""

import base64
import binascii
import hashlib
import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from taskflow.errors import TaskFlowError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORMAT = struct.Struct(">8sq16s")


class InvalidCursor(TaskFlowError):
    """A cursor that is none of ours, or belongs to another list."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last item of a page: the next page begins after it."""

    created_at: datetime
    id: UUID


def list_digest(filters: dict[str, Any]) -> bytes:
    """What tells one list from another: 8 bytes of its tenant and filters, in whatever order."""
    in_one_order = {
        name: sorted(value) if isinstance(value, list) else value for name, value in filters.items()
    }
    canonical = json.dumps(in_one_order, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).digest()[:8]


def encode(position: Position, digest: bytes) -> str:
    """The cursor after `position`, to the microsecond."""
    microseconds = (position.created_at - _EPOCH) // timedelta(microseconds=1)
    packed = _FORMAT.pack(digest, microseconds, position.id.bytes)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode(cursor: str, digest: bytes) -> Position:
    """The position that a cursor stands for.

    Raises:
        InvalidCursor: it is malformed, or was given for another list.
    """
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found, microseconds, id_ = _FORMAT.unpack(packed)
        position = Position(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=id_))
    except (ValueError, binascii.Error, struct.error, OverflowError) as error:
        raise InvalidCursor("The cursor is malformed; take it from next_cursor.") from error
    if found != digest:
        raise InvalidCursor("The cursor belongs to a list with other filters.")
    return position
