"""The frames of a pointer's message, cut from a pattern.

Built field by field, a message costs more than all else on its way. Those of one job type differ in
their ids and stamps alone, which have their sizes: the pattern is what pamqp makes of one of them.
"""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

import pamqp.frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from taskflow.broker.message import encode, stamp_of, traceparent
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority

_SAMPLE_ID = UUID("6f2d1c3a-85b7-4e09-93d4-0a1b2c3d4e5f")
_SAMPLE_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_SAMPLE_LANE = Lane("default", Priority.MEDIUM)
"""A lane is in no frame of these: it is the routing key, which is said before them."""

_pack_stamp = struct.Struct(">q").pack
"""As AMQP has the stamp of any pointer: a long-long-int."""

_MAX_PATTERNS = 1_024


def frames_of(pointer: Pointer, channel_number: int) -> bytes:
    """Header and body of the message that `encode` makes of a pointer, for this channel."""
    pattern = _pattern_of(pointer.type, channel_number)
    job_id = str(pointer.job_id).encode()
    return b"".join(
        (
            pattern.to_stamp,
            _pack_stamp(stamp_of(pointer)),
            pattern.to_trace,
            traceparent(pointer.job_id).encode(),
            pattern.to_message_id,
            job_id,
            pattern.to_job_id,
            job_id,
            pattern.end,
        )
    )


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What stands between the parts that differ."""

    to_stamp: bytes
    to_trace: bytes
    to_message_id: bytes
    to_job_id: bytes
    end: bytes


@lru_cache(maxsize=_MAX_PATTERNS)
def _pattern_of(job_type: str, channel_number: int) -> _Pattern:
    sample = Pointer(_SAMPLE_ID, _SAMPLE_LANE, job_type, _SAMPLE_TIME)
    message = encode(sample)
    header = ContentHeader(properties=message.properties, body_size=len(message.body))
    frames = b"".join(
        pamqp.frame.marshal(frame, channel_number) for frame in (header, ContentBody(message.body))
    )
    job_id = str(_SAMPLE_ID).encode()
    # The type, which may say anything, comes after the first id and before the last one.
    to_stamp, _, rest = frames.partition(_pack_stamp(stamp_of(sample)))
    to_trace, _, rest = rest.partition(traceparent(_SAMPLE_ID).encode())
    to_message_id, _, rest = rest.partition(job_id)
    to_job_id, _, end = rest.rpartition(job_id)
    return _Pattern(to_stamp, to_trace, to_message_id, to_job_id, end)
