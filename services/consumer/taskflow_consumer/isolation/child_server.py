"""The consumer's side of an isolated child's pipe: it does what the child asks for."""

import asyncio
from typing import Any

from taskflow.errors import ServiceUnavailable
from taskflow.jobs.outcomes import JobError
from taskflow.sdk.context import AttemptServices
from taskflow.sdk.json_values import said
from taskflow_consumer.isolation.ending import Ending, Raised, Returned
from taskflow_consumer.isolation.wire import Frame, WireError, encode, read_frame


class ChildServer:
    """Serves one child until its ending."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        services: AttemptServices,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._services = services

    async def serve(self) -> Ending | None:
        """Serve until the child says how its call ended; None: it hung up without a word.

        Raises:
            WireError: it says what can't be understood.
        """
        # A call may take long; the child's other threads and its log don't wait for it.
        calls: set[asyncio.Task[None]] = set()
        try:
            while (frame := await read_frame(self._reader)) is not None:
                ending = self._take(frame, calls)
                if ending is not None:
                    return ending
            return None
        finally:
            for call in calls:
                call.cancel()

    def _take(self, frame: Frame, calls: set[asyncio.Task[None]]) -> Ending | None:
        head, body = frame
        match head:
            case {
                "kind": "line",
                "level": str(level),
                "message": str(message),
                "logger": str(logger),
                "fields": dict(fields),
            }:
                self._services.write(level, message, logger, fields)
            case {
                "kind": "progress",
                "percent": int() | float() as percent,
                "message": str() | None as said_of_it,
            }:
                self._services.report_progress(percent, said_of_it)
            case {
                "kind": "call",
                "id": int(call_id),
                "method": str(method),
                "arguments": dict(arguments),
            }:
                call = asyncio.create_task(self._answer(call_id, method, arguments, body))
                calls.add(call)
                call.add_done_callback(calls.discard)
            case _:
                return _ending(head, body)
        return None

    async def _answer(
        self, call_id: int, method: str, arguments: dict[str, Any], body: bytes
    ) -> None:
        answer: dict[str, Any] = {"id": call_id, "error": None}
        try:
            frame = encode(answer, await self._ask(method, arguments, body))
        except Exception as error:  # noqa: BLE001 - it is raised again, in the child
            frame = encode(answer | {"error": _told(error)})
        try:
            self._writer.write(frame)
            await self._writer.drain()
        except ConnectionError:
            return  # The child is gone; whoever reads sees it.

    async def _ask(self, method: str, arguments: dict[str, Any], body: bytes) -> bytes:
        services = self._services
        match method, arguments:
            case "put_artifact", {"name": str(name), "content_type": str(content_type)}:
                stored = services.put_artifact(name, body, content_type)
                return (await asyncio.wrap_future(stored)).encode()
            case "put_artifact_file", {
                "name": str(name),
                "path": str(path),
                "content_type": str(content_type),
            }:
                stored = services.put_artifact_file(name, path, content_type)
                return (await asyncio.wrap_future(stored)).encode()
            case "get_artifact", {"key": str(key)}:
                return await asyncio.wrap_future(services.get_artifact(key))
            case "get_artifact_file", {"key": str(key), "path": str(path)}:
                await asyncio.wrap_future(services.get_artifact_file(key, path))
            case "save_checkpoint", _:
                await asyncio.wrap_future(services.save_checkpoint(body.decode()))
            case _:
                raise WireError(f"no call {method!r} with {arguments!r}")
        return b""


def _ending(head: dict[str, Any], body: bytes) -> Ending:
    match head:
        case {"kind": "returned"}:
            return Returned(body.decode())
        case {
            "kind": "raised",
            "error": {
                "type": str(kind),
                "message": str(message),
                "retryable": bool(retryable),
            },
            "traceback": str() | None as traceback,
            "delay_seconds": int() | float() | None as delay_seconds,
        }:
            return Raised(JobError(kind, message, retryable), traceback, delay_seconds)
    raise WireError(f"no message of ours: {str(head)[:200]}")


def _told(error: Exception) -> dict[str, Any]:
    service = error.service if isinstance(error, ServiceUnavailable) else ""
    message = said(error).removeprefix(f"{service} is not available: ")
    told: dict[str, Any] = {"type": type(error).__name__, "message": message, "service": service}
    if isinstance(error, OSError) and error.errno is not None:
        told["os_error"] = [error.errno, error.strerror, error.filename and str(error.filename)]
    return told
