import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from taskflow.broker.message import UndecodableMessage, decode, encode
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority

LANE = Lane("default", Priority.HIGH)


@given(st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_pointer_comes_back_to_the_millisecond(pointer_at: datetime) -> None:
    job_id = uuid7()
    message = encode(Pointer(job_id, LANE, "echo", pointer_at))
    received = decode(message.body, message.headers)
    assert received.job_id == job_id
    assert received.pointer_at is not None
    assert abs((received.pointer_at - pointer_at).total_seconds()) <= 0.0006


def test_the_body_is_the_contract() -> None:
    job_id = uuid7()
    message = encode(Pointer(job_id, LANE, "echo", datetime.now(UTC)))
    assert json.loads(message.body) == {"v": 1, "job_id": str(job_id)}
    assert message.message_id == str(job_id)
    assert message.content_type == "application/json"
    assert message.headers["traceparent"] == f"00-{job_id.hex}-{job_id.hex[16:]}-00"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "version None"),
        (b'{"v": 2, "job_id": "x"}', "version 2"),
        (b'{"v": 1}', "job_id"),
        (b'{"v": 1, "job_id": 7}', "job_id"),
        (b'{"v": 1, "job_id": "x"}', "job_id"),
    ],
)
def test_garbage_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(UndecodableMessage, match=reason):
        decode(body, None)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(body: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        decode(body, {})


@pytest.mark.parametrize("header", [None, "now", 2**80, b"1"])
def test_a_strange_stamp_is_no_stamp(header: Any) -> None:
    body = json.dumps({"v": 1, "job_id": str(uuid7())}).encode()
    assert decode(body, {"pointer_at": header}).pointer_at is None
