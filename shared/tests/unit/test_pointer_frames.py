"""What is cut from a pattern is what pamqp makes of the same message."""

from datetime import UTC, datetime
from uuid import UUID

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from taskflow.broker.message import decode, encode
from taskflow.broker.pointer_frames import _SAMPLE_ID, frames_of
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority

LANE = Lane("reports", Priority.HIGH)


def by_pamqp(pointer: Pointer, channel_number: int) -> bytes:
    message = encode(pointer)
    header = ContentHeader(properties=message.properties, body_size=len(message.body))
    return b"".join(
        pamqp.frame.marshal(frame, channel_number) for frame in (header, ContentBody(message.body))
    )


@given(
    st.uuids(),
    st.text(max_size=60) | st.sampled_from([str(_SAMPLE_ID), f"a{_SAMPLE_ID}{_SAMPLE_ID}"]),
    # No job is older than this, nor will be stamped later.
    st.datetimes(datetime(2020, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(1, 2047),
)
def test_frames_are_those_of_pamqp(
    job_id: UUID, job_type: str, pointer_at: datetime, channel_number: int
) -> None:
    pointer = Pointer(job_id, LANE, job_type, pointer_at)
    assert frames_of(pointer, channel_number) == by_pamqp(pointer, channel_number)


@pytest.mark.parametrize("job_type", ["echo", "thumbnail"])
def test_one_pattern_serves_many_pointers(job_type: str) -> None:
    at = datetime(2026, 7, 1, 12, 0, 0, 123_456, tzinfo=UTC)
    for number in range(3):
        pointer = Pointer(UUID(int=number), LANE, job_type, at)
        frames = frames_of(pointer, 1)
        size, _, header = pamqp.frame.unmarshal(frames)
        _, _, body = pamqp.frame.unmarshal(frames[size:])
        assert isinstance(header, ContentHeader)
        assert isinstance(body, ContentBody)
        assert header.properties.message_type == job_type
        received = decode(bytes(body.value or b""), header.properties.headers)
        assert received.job_id == pointer.job_id
        assert received.pointer_at == at.replace(microsecond=123_000)
