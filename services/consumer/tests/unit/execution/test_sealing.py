"""Jobs that are sealed at rest: handlers know nothing of it, and nothing open is stored."""

import json
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from taskflow import Fail, JobContext, job
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.outcomes import OutcomeKind
from taskflow.sealing.ring import Part, Place, SealingKeyRing

from .harness import Harness


class Strict(BaseModel):
    number: int


RING = SealingKeyRing({"k": b"k" * 32})


def sealed(harness: Harness, payload: Any, checkpoint: Any = None) -> ClaimedJob:
    claimed = harness.claim("subject", payload, checkpoint=checkpoint)
    checkpoint_json = claimed.checkpoint_json
    if checkpoint_json is not None:
        checkpoint_json = RING.seal_json(place(claimed, Part.CHECKPOINT), checkpoint_json)
    payload_json = RING.seal_json(place(claimed, Part.PAYLOAD), claimed.payload_json)
    return replace(claimed, payload_json=payload_json, checkpoint_json=checkpoint_json)


def place(claimed: ClaimedJob, part: Part) -> Place:
    return Place(claimed.tenant_id, claimed.attempt.job_id, part)


async def test_a_handler_gets_what_was_sent_and_its_result_is_sealed(harness: Harness) -> None:
    @job("subject")
    async def subject(payload: dict[str, str], ctx: JobContext) -> list[Any]:
        return [payload["text"], ctx.checkpoint.value]

    claimed = sealed(harness, {"text": "a canary"}, checkpoint={"page": 3})
    outcome = await harness.run(harness.executor([subject], ring=RING), claimed)
    assert outcome.result_json is not None
    assert "canary" not in outcome.result_json
    opened = RING.open_json(place(claimed, Part.RESULT), outcome.result_json)
    assert json.loads(opened) == ["a canary", {"page": 3}]


async def test_the_message_of_an_error_is_sealed_and_its_type_is_not(harness: Harness) -> None:
    @job("subject")
    async def subject(payload: dict[str, str]) -> None:
        raise Fail(f"no {payload['text']}")

    claimed = sealed(harness, {"text": "a canary"})
    outcome = await harness.run(harness.executor([subject], ring=RING), claimed)
    assert outcome.error is not None
    assert "canary" not in outcome.error.message
    assert RING.open_text(place(claimed, Part.ERROR), outcome.error.message) == "no a canary"
    assert "taskflow.sealed" not in outcome.error.type
    assert "taskflow.sealed" not in harness.text(claimed)


async def test_a_payload_that_does_not_fit_is_said_under_a_seal(harness: Harness) -> None:
    @job("subject")
    async def subject(payload: Strict) -> None:
        """Never called."""

    claimed = sealed(harness, {"number": "a canary"})
    outcome = await harness.run(harness.executor([subject], ring=RING), claimed)
    assert outcome.error is not None
    assert "canary" not in outcome.error.message


async def test_a_large_result_is_sealed_where_it_is_put(harness: Harness) -> None:
    @job("subject")
    async def subject() -> str:
        return "a canary" * 100

    claimed = sealed(harness, {})
    executor = harness.executor([subject], ring=RING, result_inline_bytes=100)
    outcome = await harness.run(executor, claimed)
    assert outcome.result_object is not None
    body, content_type = harness.artifacts.objects[outcome.result_object]
    assert b"canary" not in body
    assert content_type == "application/octet-stream"
    opened = RING.open_object(place(claimed, Part.RESULT), body)
    assert json.loads(opened) == "a canary" * 100


@pytest.mark.parametrize("ring", [RING, SealingKeyRing({})])
async def test_a_seal_that_does_not_open_ends_the_job_in_words(
    harness: Harness, ring: SealingKeyRing
) -> None:
    @job("subject")
    async def subject() -> None:
        raise AssertionError("the handler was called")

    moved = replace(sealed(harness, {}), tenant_id=uuid4())
    outcome = await harness.run(harness.executor([subject], ring=ring), moved)
    assert outcome.error is not None
    assert outcome.error.type == "payload_unreadable"
    # Without the key it may be another worker's to open.
    expected = OutcomeKind.RETRYABLE if ring is not RING else OutcomeKind.FAILED
    assert outcome.kind is expected


async def test_a_job_that_came_before_the_keys_runs(harness: Harness) -> None:
    @job("subject")
    async def subject(payload: dict[str, str]) -> str:
        return payload["text"]

    claimed = harness.claim("subject", {"text": "open"})
    outcome = await harness.run(harness.executor([subject], ring=RING), claimed)
    assert outcome.result_json is not None
    assert RING.open_json(place(claimed, Part.RESULT), outcome.result_json) == '"open"'
