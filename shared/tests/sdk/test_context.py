"""The contexts by themselves; how they work in a consumer is tested there."""

import asyncio
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from taskflow import JobContext, JobStopped, SyncJobContext
from taskflow.sdk.errors import JsonTooLarge, NotJson


class Services:
    """Answers at once, or as it is told to."""

    def __init__(self) -> None:
        self.stopped = False
        self.lines: list[tuple[str, str, str, Mapping[str, Any]]] = []
        self.progress: list[tuple[float, str | None]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        self.lines.append((level, message, logger, fields))

    def report_progress(self, percent: float, message: str | None) -> None:
        self.progress.append((percent, message))

    def put_artifact(self, name: str, data: bytes, content_type: str) -> Future[str]:
        return self._answer("key", "put", name, data, content_type)

    def put_artifact_file(self, name: str, path: str, content_type: str) -> Future[str]:
        return self._answer("key", "put_file", name, path, content_type)

    def get_artifact(self, key: str) -> Future[bytes]:
        return self._answer(b"data", "get", key)

    def get_artifact_file(self, key: str, path: str) -> Future[None]:
        return self._answer(None, "get_file", key, path)

    def save_checkpoint(self, value_json: str) -> Future[None]:
        return self._answer(None, "save", value_json)

    def _answer(self, value: Any, *call: Any) -> Future[Any]:
        self.calls.append(call)
        future: Future[Any] = Future()
        if self.error:
            future.set_exception(self.error)
        else:
            future.set_result(value)
        return future


def _context(services: Services, checkpoint_json: str | None = None) -> JobContext:
    return JobContext(uuid4(), 2, services, checkpoint_json)


def _sync_context(services: Services, checkpoint_json: str | None = None) -> SyncJobContext:
    return SyncJobContext(uuid4(), 2, services, checkpoint_json)


async def test_progress_may_be_awaited_or_not() -> None:
    services = Services()
    context = _context(services)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context.progress(10)
        await context.progress(20, "half")
        await asyncio.gather(asyncio.ensure_future(_await(context.progress(30))))
    assert services.progress == [(10, None), (20, "half"), (30, None)]


async def _await(awaitable: Any) -> None:
    assert await awaitable is None


async def test_awaiting_progress_lets_others_run() -> None:
    context = _context(Services())
    ran: list[bool] = []
    asyncio.get_running_loop().call_soon(ran.append, True)
    await context.progress(1)
    assert ran == [True]


async def test_an_awaited_progress_can_be_cancelled() -> None:
    context = _context(Services())

    async def spin() -> None:
        while True:
            await context.progress(1)

    task = asyncio.create_task(spin())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


async def test_cancelled_says_what_the_consumer_says() -> None:
    services = Services()
    contexts = [_context(services), _sync_context(services)]
    assert [context.cancelled for context in contexts] == [False, False]
    services.stopped = True
    assert [context.cancelled for context in contexts] == [True, True]


def test_the_logger_writes_lines_with_fields() -> None:
    services = Services()
    log = _context(services).log
    bound = log.bind(request=7)
    log.debug("d")
    log.info("i", width=320, path=Path("a/b"), message="not the message", self="fine")
    log.warning("w")
    bound.error("e", more=1)
    bound.bind(request=8).info(5)  # type: ignore[arg-type]
    try:
        raise ValueError("bad")
    except ValueError:
        bound.exception("x", at=2)
    assert [(level, message) for level, message, *_ in services.lines[:5]] == [
        ("debug", "d"),
        ("info", "i"),
        ("warning", "w"),
        ("error", "e"),
        ("info", "5"),
    ]
    assert {logger for _, _, logger, _ in services.lines} == {"job"}
    fields = [line[3] for line in services.lines]
    assert fields[1] == {
        "width": 320,
        "path": "a/b",
        "message": "not the message",
        "self": "fine",
    }
    assert fields[3] == {"request": 7, "more": 1}
    assert fields[4] == {"request": 8}
    assert fields[5]["at"] == 2
    assert "ValueError: bad" in fields[5]["traceback"]


async def test_artifacts_and_their_blocking_sister_make_the_same_calls(tmp_path: Path) -> None:
    services, sync_services = Services(), Services()
    artifacts = _context(services).artifacts
    assert await artifacts.put("a", b"x") == "key"
    assert await artifacts.put_file("b", tmp_path, "text/plain") == "key"
    assert await artifacts.get("key") == b"data"
    await artifacts.get_file("key", "relative")
    sync = _sync_context(sync_services).artifacts
    assert sync.put("a", b"x") == "key"
    assert sync.put_file("b", str(tmp_path), "text/plain") == "key"
    assert sync.get("key") == b"data"
    sync.get_file("key", Path("relative"))
    assert (
        services.calls
        == sync_services.calls
        == [
            ("put", "a", b"x", "application/octet-stream"),
            ("put_file", "b", str(tmp_path), "text/plain"),
            ("get", "key"),
            ("get_file", "key", str(Path.cwd() / "relative")),
        ]
    )


async def test_what_can_not_be_an_artifact_is_refused_before_any_call() -> None:
    services = Services()
    with pytest.raises(TypeError, match="stored from bytes, not str"):
        await _context(services).artifacts.put("a", "text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kept for a large result"):
        await _context(services).artifacts.put("result-12.json", b"")
    with pytest.raises(ValueError, match="kept for a large result"):
        _sync_context(services).artifacts.put_file("result-1.json", "x")
    assert services.calls == []


async def test_checkpoints_are_read_and_saved_as_json() -> None:
    services = Services()
    assert _context(services).checkpoint.value is None
    context, sync = _context(services, '{"page": 1}'), _sync_context(services, "[1]")
    assert (context.checkpoint.value, sync.checkpoint.value) == ({"page": 1}, [1])
    await context.checkpoint.save({"page": (2,)})
    sync.checkpoint.save([2])
    assert services.calls == [("save", '{"page":[2]}'), ("save", "[2]")]
    assert context.checkpoint.value == {"page": [2]}
    assert sync.checkpoint.value == [2]


async def test_a_checkpoint_that_is_not_saved_is_not_remembered() -> None:
    services = Services()
    context, sync = _context(services, "1"), _sync_context(services, "1")
    for value, error in [(b"", NotJson), ("x" * (1024 * 1024), JsonTooLarge)]:
        with pytest.raises(error):
            await context.checkpoint.save(value)
        with pytest.raises(error):
            sync.checkpoint.save(value)
    services.error = JobStopped()
    with pytest.raises(JobStopped):
        await context.checkpoint.save(2)
    with pytest.raises(JobStopped):
        sync.checkpoint.save(2)
    assert (context.checkpoint.value, sync.checkpoint.value) == (1, 1)
