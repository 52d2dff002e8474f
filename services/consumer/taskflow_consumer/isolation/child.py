"""The process of an isolated job, from its first line to its ending.

The fork server has imported this module and the user's before it forks, so it must stay light:
no client of any server.
"""

import asyncio
import faulthandler
import itertools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from taskflow.errors import InvalidContent, ObjectMissing, ServiceUnavailable, TaskFlowError
from taskflow.sdk.context import current_attempt_log
from taskflow.sdk.errors import JobStopped
from taskflow.sdk.json_values import loggable
from taskflow.sdk.progress import LatestProgress
from taskflow.sdk.registry import find_job_type
from taskflow_consumer.isolation.call import Call
from taskflow_consumer.isolation.ending import Ending, Raised, Returned, raised
from taskflow_consumer.isolation.lifeline import hang_on
from taskflow_consumer.isolation.memory_limit import MemoryLimit
from taskflow_consumer.isolation.wire import encode, receive_frame
from taskflow_consumer.log_capture import LogCapture

PROGRESS_INTERVAL_SECONDS = 0.25
MAX_LINE_CHARACTERS = 128 * 1024
"""The parent shortens a stored line to less than this."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a child is to do, as its parent says it in the first frame."""

    module: str
    job_type: str
    job_id: str
    attempt: int
    payload_json: str
    checkpoint_json: str | None
    result_max_bytes: int
    memory_mib: int | None
    log_level: int


def main(connection: socket.socket, lifeline: socket.socket) -> None:
    """Run one handler and send its ending over `connection`; die when `lifeline` closes."""
    # A group of its own, so that the parent can kill the job with all that it has started; and
    # the parent alone decides when: a SIGTERM for everything is for the parent to act on.
    os.setsid()
    hang_on(lifeline)
    signal.signal(signal.SIGTERM, _leave_it_to_the_parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if sys.stderr is not None:
        faulthandler.enable()
    frame = receive_frame(connection)
    if frame is None:
        return
    pipe = Pipe(connection)
    services = PipeServices(pipe)
    ending = _run(Errand(**frame[0]), services)
    services.flush_progress()
    pipe.send(*_ending_frame(ending))


def do_nothing() -> None:
    """End at once: whoever sees this end knows that processes can be started."""


def _leave_it_to_the_parent(*_: object) -> None:
    """Handle a signal by doing nothing; unlike SIG_IGN this is not inherited by subprocesses."""


def _run(errand: Errand, services: "PipeServices") -> Ending:
    try:
        _capture_logging(services, errand.log_level)
        call = Call(
            job_type=find_job_type(errand.module, errand.job_type),
            job_id=UUID(errand.job_id),
            attempt=errand.attempt,
            payload_json=errand.payload_json,
            checkpoint_json=errand.checkpoint_json,
            services=services,
            result_max_bytes=errand.result_max_bytes,
            memory_limit=MemoryLimit(errand.memory_mib) if errand.memory_mib else None,
        )
        if call.memory_limit is not None:
            call.memory_limit.impose()
        return asyncio.run(call.run()) if call.job_type.is_async else call.run_blocking()
    except BaseException as error:  # noqa: BLE001 - a sys.exit() in a task ends the loop's run
        return raised(error)


def _ending_frame(ending: Ending) -> tuple[dict[str, Any], bytes]:
    match ending:
        case Returned(result_json):
            return {"kind": "returned"}, result_json.encode()
        case Raised(error, traceback, delay_seconds):
            told = {"traceback": traceback, "delay_seconds": delay_seconds}
            return {"kind": "raised", "error": error.as_dict(), **told}, b""


class _CaptureEverything(LogCapture):
    """This whole process runs for one attempt; threads of the user's don't inherit its context."""

    def __init__(self, services: "PipeServices") -> None:
        super().__init__()
        self._services = services

    def emit(self, record: logging.LogRecord) -> None:
        token = current_attempt_log.set(self._services)
        try:
            super().emit(record)
        finally:
            current_attempt_log.reset(token)


def _capture_logging(services: "PipeServices", level: int) -> None:
    root = logging.getLogger()
    root.handlers = [_CaptureEverything(services)]
    root.setLevel(level)


class Pipe:
    """The child's end: any thread sends, one thread of our own receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._ids = itertools.count(1)
        self._waiting: dict[int, Callable[[dict[str, Any], bytes], None]] = {}
        threading.Thread(target=self._receive, name="taskflow-pipe", daemon=True).start()

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Send a frame; waits while the parent is slow to read."""
        frame = encode(head, body)
        with self._sending:
            self._connection.sendall(frame)

    def call(
        self, method: str, decode: Callable[[bytes], T], body: bytes = b"", **arguments: str
    ) -> Future[T]:
        """Ask the parent for something; `decode` makes the answer of its bytes."""
        answer: Future[T] = Future()
        call_id = next(self._ids)
        self._waiting[call_id] = partial(_settle, answer, decode, arguments.get("key", ""))
        self.send({"kind": "call", "id": call_id, "method": method, "arguments": arguments}, body)
        return answer

    def _receive(self) -> None:
        while (frame := receive_frame(self._connection)) is not None:
            head, body = frame
            self._waiting.pop(head["id"])(head, body)
        # The consumer is gone, and with it the right to run this job.
        os.killpg(0, signal.SIGKILL)


def _settle(
    answer: Future[T], decode: Callable[[bytes], T], key: str, head: dict[str, Any], body: bytes
) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    error = head["error"]
    if error is None:
        answer.set_result(decode(body))
    else:
        answer.set_exception(_error(error, key))


def _error(told: Mapping[str, Any], key: str) -> Exception:
    """The error that the same call raises in the consumer's own process."""
    if "os_error" in told:
        return OSError(*told["os_error"])  # of the class that the number stands for
    message, service = told["message"], told["service"]
    match told["type"]:
        case "JobStopped":
            return JobStopped()
        case "ObjectMissing":
            return ObjectMissing(key)
        case "InvalidContent":
            return InvalidContent(message, [])
        case "ServiceUnavailable":
            return ServiceUnavailable(service, message)
    return TaskFlowError(f"{told['type']}: {message}")


class PipeServices:
    """What a context asks of the consumer, through the pipe. It is the attempt's log as well."""

    # Whoever stops an isolated attempt kills it, so it never lives to see this turn true.
    stopped = False

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._progress = LatestProgress(PROGRESS_INTERVAL_SECONDS, _later, self._emit_progress)

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        """Keep one line of the attempt's log."""
        line = {"level": level, "message": message[:MAX_LINE_CHARACTERS], "logger": logger}
        try:
            self._pipe.send({"kind": "line", **line, "fields": loggable(fields)})
        except ValueError as error:  # too large for the wire, or an integer too long for JSON
            self._pipe.send({"kind": "line", **line, "fields": {"fields_left_out": str(error)}})

    async def close(self) -> None:
        """Do nothing: the parent closes the log."""

    def report_progress(self, percent: float, message: str | None) -> None:
        """Take note of how far the job has come (0 to 100)."""
        self._progress.report(percent, message)

    def flush_progress(self) -> None:
        """Pass on the last progress."""
        self._progress.flush()

    def put_artifact(self, name: str, data: bytes, content_type: str) -> Future[str]:
        """Store bytes as an artifact of the job; its key."""
        return self._pipe.call(
            "put_artifact", bytes.decode, data, name=name, content_type=content_type
        )

    def put_artifact_file(self, name: str, path: str, content_type: str) -> Future[str]:
        """Store a file as an artifact of the job; its key."""
        return self._pipe.call(
            "put_artifact_file", bytes.decode, name=name, path=path, content_type=content_type
        )

    def get_artifact(self, key: str) -> Future[bytes]:
        """An artifact's bytes."""
        return self._pipe.call("get_artifact", bytes, key=key)

    def get_artifact_file(self, key: str, path: str) -> Future[None]:
        """Write an artifact's bytes to a file."""
        return self._pipe.call("get_artifact_file", _nothing, key=key, path=path)

    def save_checkpoint(self, value_json: str) -> Future[None]:
        """Store the job's checkpoint."""
        return self._pipe.call("save_checkpoint", _nothing, value_json.encode())

    def _emit_progress(self, percent: float, message: str | None) -> None:
        self._pipe.send({"kind": "progress", "percent": percent, "message": message})


def _nothing(_: bytes) -> None:
    return None


def _later(delay_seconds: float, callback: Callable[[], None]) -> None:
    if delay_seconds <= 0:
        callback()
        return
    timer = threading.Timer(delay_seconds, callback)
    timer.daemon = True
    timer.start()
