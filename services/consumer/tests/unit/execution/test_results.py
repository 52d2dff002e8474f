"""What handlers return, and which of it is kept."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import threading
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from taskflow.jobs.outcomes import OutcomeKind

from .harness import Body, Declare, Harness, as_def, outcome_of


class Colour(enum.Enum):
    RED = "red"


class Point(BaseModel):
    x: float
    y: float = 0


@dataclasses.dataclass
class Size:
    width: int


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, None),
        ({"a": [1, 2.5, "x", True, None]}, {"a": [1, 2.5, "x", True, None]}),
        ("emoji 🎈 and \\u0000 spelt out", "emoji 🎈 and \\u0000 spelt out"),
        (10**30, 10**30),
        ((1, 2), [1, 2]),
        ({1: "one"}, {"1": "one"}),
        (Point(x=1.5), {"x": 1.5, "y": 0.0}),
        ([Size(3), {"colour": Colour.RED}], [{"width": 3}, {"colour": "red"}]),
        ({7}, [7]),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (
            dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
            "2026-01-02T03:04:05Z",
        ),
    ],
    ids=repr,
)
async def test_results_become_json(
    harness: Harness, declare: Declare, result: object, expected: object
) -> None:
    outcome, _ = await outcome_of(harness, declare(lambda: result))
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    assert json.loads(outcome.result_json or "") == expected


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _nested(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth - 1):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda: float("nan"), "Out of range float"),
        (lambda: {"deep": [float("inf")]}, "Out of range float"),
        (lambda: Point(x=float("nan")), "Out of range float"),
        (lambda: Size(float("-inf")), "Out of range float"),  # type: ignore[arg-type]
        (lambda: b"abc", "holds bytes"),
        (lambda: {"a": bytearray(b"x")}, "holds bytes"),
        (_cycle, "Circular reference"),
        (lambda: _nested(300), "nested deeper than 200"),
        (lambda: _nested(100_000), "nested deeper than 200"),
        (lambda: "a\x00b", "NUL"),
        (lambda: {"a\x00b": 1}, "NUL"),
        (lambda: "\\\x00", "NUL"),
        (lambda: "\ud800", "lone surrogate"),
        (lambda: {"\udfff": 1}, "lone surrogate"),
        (lambda: 10**5000, "4300 digits"),
        (lambda: {(1, 2): 3}, "keys must be"),
        (object, "Unable to serialize unknown type"),
        (threading.Lock, "Unable to serialize unknown type"),
    ],
)
async def test_a_result_that_is_no_json_is_a_permanent_failure(
    harness: Harness, declare: Declare, body: Body, said: str
) -> None:
    outcome, _ = await outcome_of(harness, declare(body))
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.error is not None
    assert outcome.error.type == "result_not_json"
    assert not outcome.error.retryable
    assert said in outcome.error.message


async def test_nesting_up_to_the_limit_is_kept(harness: Harness, declare: Declare) -> None:
    outcome, _ = await outcome_of(harness, declare(lambda: _nested(200)))
    assert outcome.result_json == "[" * 200 + "]" * 200


async def test_a_result_that_is_too_large_is_a_permanent_failure(
    harness: Harness, declare: Declare
) -> None:
    outcome, _ = await outcome_of(harness, declare(lambda: "ä" * 600_000))
    assert outcome.error is not None
    assert (outcome.kind, outcome.error.type) == (OutcomeKind.FAILED, "result_too_large")
    assert "1200002 bytes" in outcome.error.message


async def test_generators_are_no_results(harness: Harness) -> None:
    async def stream() -> AsyncIterator[int]:
        yield 1

    outcome, _ = await outcome_of(harness, as_def(stream))
    assert outcome.error is not None
    assert outcome.error.type == "result_not_json"
