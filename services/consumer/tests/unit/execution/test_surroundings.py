"""What a handler finds around it: its log, its context, the tasks and threads it starts."""

import asyncio
import contextvars
import gc
import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from taskflow import JobContext, SyncJobContext, job
from taskflow.jobs.outcomes import OutcomeKind
from taskflow_consumer.isolation.contained_exits import ContainedExit, begin
from taskflow_consumer.log_capture import LogCapture

from .harness import Harness, until


@pytest.mark.parametrize("error", [SystemExit(9), KeyboardInterrupt()], ids=repr)
async def test_an_exit_in_a_task_that_a_handler_started_does_not_end_the_consumer(
    harness: Harness, error: BaseException
) -> None:
    async def leave() -> None:
        raise error

    @job("awaited")
    async def awaited() -> None:
        await asyncio.create_task(leave())

    @job("grouped")
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())

    executor = harness.executor([awaited, grouped])
    outcome = await harness.run(executor, harness.claim("awaited"))
    assert outcome.error is not None
    assert outcome.error.type == type(error).__name__
    outcome = await harness.run(executor, harness.claim("grouped"))
    assert outcome.error is not None
    assert outcome.error.type == "ExceptionGroup"


@pytest.mark.parametrize("error", [SystemExit(9), KeyboardInterrupt()], ids=repr)
async def test_an_exit_at_the_first_step_is_contained(error: BaseException) -> None:
    async def leave() -> None:
        raise error

    with pytest.raises(ContainedExit) as contained:
        await begin(leave())
    assert contained.value.__cause__ is error


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a task's first step is in the next turn")
async def test_what_needs_one_step_has_ended_when_it_has_begun() -> None:
    async def answer() -> int:
        return 42

    async def wait() -> int:
        await asyncio.sleep(0)
        return 43

    short, long = begin(answer()), begin(wait())
    assert (short.done(), long.done()) == (True, False)
    assert (await short, await long) == (42, 43)


async def test_a_handler_is_a_task_of_its_own_from_its_first_step(harness: Harness) -> None:
    seen = contextvars.ContextVar("seen", default="nothing")
    tasks: set[asyncio.Task[Any] | None] = set()
    found = []

    @job("subject")
    async def subject() -> None:
        tasks.add(asyncio.current_task())
        found.append(seen.get())
        seen.set("what another job has left")

    executor = harness.executor([subject])
    supervisor = asyncio.current_task()
    for _ in range(3):
        outcome = await harness.run(executor, harness.claim("subject"))
        assert outcome.kind is OutcomeKind.COMPLETED
    assert len(tasks) == 3
    assert supervisor not in tasks
    assert found == ["nothing"] * 3
    assert seen.get() == "nothing"


async def test_tasks_of_a_handler_are_tasks_like_any(harness: Harness) -> None:
    async def never() -> None:
        raise AssertionError("cancelled before its first step")

    async def add(number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    async def fail() -> None:
        raise LookupError("lost")

    async def wait() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "swallowed"
        return "slept"

    @job("subject")
    async def subject() -> list[Any]:
        cancelled = asyncio.create_task(never(), name="given")
        cancelled.cancel()
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        ended = await asyncio.gather(
            cancelled,
            waiting,
            *(add(number) for number in range(3)),
            fail(),
            return_exceptions=True,
        )
        assert "never" in repr(cancelled)
        return [cancelled.get_name(), *map(repr, ended)]

    executor = harness.executor([subject])
    outcome = await harness.run(executor, harness.claim("subject"))
    gc.collect()
    assert json.loads(outcome.result_json or "") == [
        "given",
        "CancelledError('')",
        "'swallowed'",
        "1",
        "2",
        "3",
        "LookupError('lost')",
    ]


@pytest.fixture
def _captured_logging() -> Iterator[None]:
    root = logging.getLogger()
    handler = LogCapture()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.usefixtures("_captured_logging")
async def test_ordinary_logging_lands_in_the_log_of_its_own_attempt(harness: Harness) -> None:
    @job("in-loop")
    async def in_loop(payload: dict[str, str]) -> None:
        await asyncio.sleep(0)
        logging.getLogger("app").info("loop %s", payload["name"])
        await asyncio.to_thread(logging.getLogger("app").info, "helper %s", payload["name"])

    @job("in-thread")
    def in_thread(payload: dict[str, str]) -> None:
        logging.getLogger("app").warning("thread %s", payload["name"])

    executor = harness.executor([in_loop, in_thread])
    jobs = [
        harness.claim(kind, {"name": f"{kind}{number}"})
        for kind in ("in-loop", "in-thread")
        for number in range(5)
    ]
    for claimed in jobs:
        executor.start(claimed)
    for claimed in jobs:
        await harness.outcome(claimed)
        name = json.loads(claimed.payload_json)["name"]
        kinds = ["loop", "helper"] if claimed.type == "in-loop" else ["thread"]
        assert [line.message for line in harness.lines(claimed)] == [
            f"{kind} {name}" for kind in kinds
        ]
    structlog.get_logger().info("outside of any job")


async def test_the_callers_context_is_copied_into_the_thread(harness: Harness) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

    @job("subject")
    def subject() -> str:
        before = request.get()
        request.set("changed in the thread")
        return before

    executor = harness.executor([subject])
    request.set("of the caller")
    outcome = await harness.run(executor, harness.claim("subject"))
    assert outcome.result_json == '"of the caller"'
    assert request.get() == "of the caller"


async def test_def_handlers_run_side_by_side_as_many_as_there_are_slots(harness: Harness) -> None:
    meeting = threading.Barrier(8, timeout=10)

    @job("subject")
    def subject() -> str:
        meeting.wait()
        return threading.current_thread().name

    executor = harness.executor([subject], concurrency=8)
    jobs = [harness.claim("subject") for _ in range(8)]
    for claimed in jobs:
        executor.start(claimed)
    names = {(await harness.outcome(claimed)).result_json for claimed in jobs}
    assert len(names) == 8
    assert "MainThread" not in "".join(filter(None, names))


async def test_an_async_context_reaches_every_service(harness: Harness) -> None:
    @job("subject")
    async def subject(payload: dict[str, Any], ctx: JobContext) -> dict[str, Any]:
        seen = ctx.checkpoint.value
        ctx.progress(10, "not awaited")
        await ctx.progress(20, "awaited")
        await ctx.artifacts.put("a.txt", b"replaced", "text/plain")
        key = await ctx.artifacts.put("a.txt", b"abc", "text/plain")
        await ctx.checkpoint.save({"key": key})
        with pytest.raises(ValueError, match="progress takes a percent"):
            ctx.progress(101)
        with pytest.raises(ValueError, match="holds bytes"):
            await ctx.checkpoint.save(b"x")
        return {
            "seen": seen,
            "data": (await ctx.artifacts.get(key)).decode(),
            "cancelled": ctx.cancelled,
            "saved": ctx.checkpoint.value == {"key": key},
        }

    executor = harness.executor([subject])
    claimed = harness.claim("subject", checkpoint=[1, 2])
    outcome = await harness.run(executor, claimed)
    assert outcome.kind is OutcomeKind.COMPLETED, (outcome, harness.text(claimed))
    assert json.loads(outcome.result_json or "") == {
        "seen": [1, 2],
        "data": "abc",
        "cancelled": False,
        "saved": True,
    }
    assert outcome.artifact_bytes == len(b"abc")
    assert harness.progress.reports[-1] == (20.0, "awaited")
    assert harness.progress.attempts == {claimed.attempt}
    assert harness.checkpoints.attempts == {claimed.attempt}


async def test_a_blocking_context_has_the_same_names(harness: Harness, tmp_path: Any) -> None:
    @job("subject")
    def subject(payload: dict[str, Any], ctx: SyncJobContext) -> dict[str, Any]:
        (tmp_path / "in").write_bytes(b"file")
        ctx.progress(30)
        key = ctx.artifacts.put_file("f", tmp_path / "in")
        ctx.artifacts.get_file(key, tmp_path / "out")
        ctx.checkpoint.save([key])
        return {
            "out": (tmp_path / "out").read_text(),
            "data": ctx.artifacts.get(ctx.artifacts.put("g", b"xyz")).decode(),
            "checkpoint": ctx.checkpoint.value == [key],
            "attempt": ctx.attempt,
        }

    executor = harness.executor([subject])
    claimed = harness.claim("subject", number=2)
    outcome = await harness.run(executor, claimed)
    assert outcome.kind is OutcomeKind.COMPLETED, (outcome, harness.text(claimed))
    assert json.loads(outcome.result_json or "") == {
        "out": "file",
        "data": "xyz",
        "checkpoint": True,
        "attempt": 2,
    }
    assert outcome.artifact_bytes == len(b"file") + len(b"xyz")


async def test_progress_is_throttled_and_its_last_word_arrives_before_the_outcome(
    harness: Harness,
) -> None:
    @job("subject")
    def subject(payload: dict[str, Any], ctx: JobContext) -> None:
        for number in range(50_000):
            ctx.progress(number / 500)

    harness.recorder.gate.clear()
    executor = harness.executor([subject])
    executor.start(harness.claim("subject"))
    await until(lambda: "job_completed" in harness.events())
    assert harness.progress.reports[-1] == (49_999 / 500, None)
    assert len(harness.progress.reports) < 20
