"""The one message that travels: "look at job X". Never the payload."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from aio_pika import DeliveryMode, Message

from taskflow.errors import TaskFlowError
from taskflow.jobs.pointers import Pointer
from taskflow.values import value_type

VERSION = 1
CONTENT_TYPE = "application/json"
POINTER_AT_HEADER = "pointer_at"
REASON_HEADER = "reason"
TRACEPARENT_HEADER = "traceparent"


class UndecodableMessage(TaskFlowError):
    """A message that says nothing we know; its text is the reason."""


@value_type
class ReceivedPointer:
    """What a consumer reads of a pointer. Lane and type are the job row's to tell."""

    job_id: UUID
    pointer_at: datetime | None


def encode(pointer: Pointer) -> Message:
    """The persistent message for a pointer."""
    return Message(
        body_of(pointer.job_id),
        content_type=CONTENT_TYPE,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=str(pointer.job_id),
        type=pointer.type,
        headers={
            POINTER_AT_HEADER: stamp_of(pointer),
            TRACEPARENT_HEADER: traceparent(pointer.job_id),
        },
    )


def body_of(job_id: UUID) -> bytes:
    """What stands in the message for a job's pointer."""
    return json.dumps({"v": VERSION, "job_id": str(job_id)}, separators=(",", ":")).encode()


def stamp_of(pointer: Pointer) -> int:
    """Milliseconds since 1970 as an integer: AMQP's own timestamp has only seconds."""
    return round(pointer.pointer_at.timestamp() * 1000)


def traceparent(job_id: UUID) -> str:
    """W3C Trace Context: a job is a trace, so that every message of it tells the same one."""
    return f"00-{job_id.hex}-{job_id.hex[16:]}-00"


def decode(body: bytes, headers: Mapping[str, object] | None) -> ReceivedPointer:
    """Read a message's body and headers.

    Raises:
        UndecodableMessage: it is no pointer of ours.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UndecodableMessage("the body is not JSON") from error
    if not isinstance(content, dict):
        raise UndecodableMessage("the body is not a JSON object")
    if content.get("v") != VERSION:
        raise UndecodableMessage(f"version {content.get('v')!r} is not {VERSION}")
    try:
        job_id = UUID(content["job_id"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UndecodableMessage("job_id is not a UUID") from error
    return ReceivedPointer(job_id, _pointer_at(headers or {}))


def _pointer_at(headers: Mapping[str, object]) -> datetime | None:
    milliseconds = headers.get(POINTER_AT_HEADER)
    if not isinstance(milliseconds, int):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
