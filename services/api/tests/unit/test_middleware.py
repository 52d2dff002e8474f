"""The layers around the application, each around a small one of the test's own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from taskflow_api.client_address import TrustedProxies
from taskflow_api.middleware.head_requests import HeadRequestsMiddleware
from taskflow_api.middleware.request_context import RequestContextMiddleware
from taskflow_api.middleware.request_timeout import RequestTimeoutMiddleware


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api")


def in_context(app: ASGIApp) -> RequestContextMiddleware:
    return RequestContextMiddleware(app, proxies=TrustedProxies((), header="X-Forwarded-For"))


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


async def test_a_bug_is_a_500_that_tells_nothing_and_a_log_that_tells_all() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("the secret reason")

    with structlog.testing.capture_logs() as logs:
        async with client(in_context(broken)) as api:
            answer = await api.get("/x?y=1")

    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    failed, request = logs
    assert (failed["event"], failed["exc_info"], failed["path"]) == ("request_failed", True, "/x")
    assert (request["event"], request["status"]) == ("http_request", 500)
    assert request["log_level"] == "warning"


async def test_an_answer_that_breaks_off_is_not_passed_for_a_whole() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise OSError("gone")

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(pieces())(scope, receive, send)

    async with client(in_context(broken)) as api:
        with pytest.raises((OSError, ExceptionGroup)):
            await api.get("/")


async def test_every_answer_has_the_headers_and_probes_are_quiet() -> None:
    with structlog.testing.capture_logs() as logs:
        async with client(in_context(hello)) as api:
            answer = await api.get("/x")
            await api.get("/healthz")

    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert UUID(answer.headers["X-Request-ID"]).version == 7
    assert [line["log_level"] for line in logs] == ["info", "debug"]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\nSet-Cookie: a=b", "\x00"])
async def test_no_header_of_an_answer_can_become_two(end: str) -> None:
    async def split(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("hello", headers={"Location": f"/x{end}"})(scope, receive, send)

    async with client(in_context(split)) as api:
        answer = await api.get("/")
    assert answer.status_code == 500
    assert "Location" not in answer.headers


async def test_a_request_that_the_stopping_server_cancels_is_a_503() -> None:
    began = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        await asyncio.Event().wait()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": []}
    request = asyncio.ensure_future(in_context(endless)(scope, receive, send))
    await began.wait()
    request.cancel()
    await request
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"1") in sent[0]["headers"]


async def test_what_one_request_binds_is_gone_in_the_next() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(structlog.contextvars.get_contextvars())
        structlog.contextvars.bind_contextvars(job_id="x")
        await hello(scope, receive, send)

    layered = in_context(app)

    async def send(_message: Any) -> None:
        return None

    async def receive() -> Any:
        return {"type": "http.request"}

    for _ in range(2):
        scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": []}
        await layered(scope, receive, send)
    assert [set(context) for context in seen] == [{"request_id"}, {"request_id"}]


async def test_a_request_that_takes_too_long_is_a_503() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await asyncio.Event().wait()

    async with client(RequestTimeoutMiddleware(slow, seconds=0.05)) as api:
        answer = await api.post("/", content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert answer.headers["Retry-After"] == "5"


async def test_a_body_that_does_not_come_is_a_408() -> None:
    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with client(RequestTimeoutMiddleware(reading, seconds=0.05)) as api:
        answer = await api.post("/", content=body())
    assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")


async def test_a_request_that_watches_for_its_client_to_leave_has_its_body() -> None:
    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with client(RequestTimeoutMiddleware(waiting, seconds=0.05)) as api:
        answer = await api.get("/")
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")


async def test_an_answer_that_has_begun_may_take_its_time() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        await asyncio.sleep(0.2)
        yield b"two"

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(pieces())(scope, receive, send)

    async with client(RequestTimeoutMiddleware(streaming, seconds=0.05)) as api:
        assert (await api.get("/")).text == "one two"


async def test_a_timeout_of_the_application_is_not_taken_for_ours() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("its own")

    async with client(RequestTimeoutMiddleware(app, seconds=5)) as api:
        with pytest.raises(TimeoutError, match="its own"):
            await api.get("/")


async def test_head_is_get_without_the_body() -> None:
    async with client(HeadRequestsMiddleware(hello)) as api:
        answer = await api.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == "5"
