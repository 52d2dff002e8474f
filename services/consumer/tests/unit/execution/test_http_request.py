"""`http.request` against a real server."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from taskflow.jobs.outcomes import Outcome, OutcomeKind
from taskflow.sdk.registry import Registry
from taskflow_consumer.handlers import http_request
from taskflow_testing.http_server import HttpServer, ReceivedRequest, http_answer

from .harness import Harness

REGISTRY = Registry.from_modules(["taskflow_consumer.handlers.http_request"])


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TASKFLOW_OUTBOUND_ALLOWED_NETWORKS", "127.0.0.1")
    http_request._client.cache_clear()
    yield
    http_request._client.cache_clear()


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with HttpServer() as server:
        yield server


class Call:
    """One attempt: its outcome, and what is in its log."""

    def __init__(self, outcome: Outcome, log: str, job_id: str) -> None:
        self.outcome = outcome
        self.log = log
        self.job_id = job_id

    @property
    def result(self) -> dict[str, Any]:
        assert self.outcome.kind is OutcomeKind.COMPLETED, self.outcome
        result: dict[str, Any] = json.loads(self.outcome.result_json or "")
        return result

    @property
    def everything(self) -> str:
        return f"{self.outcome} {self.log}"


async def call(harness: Harness, **payload: object) -> Call:
    claimed = harness.claim("http.request", payload)
    outcome = await harness.run(harness.executor(REGISTRY), claimed)
    return Call(outcome, harness.text(claimed), str(claimed.attempt.job_id))


async def test_a_call_and_its_result(harness: Harness, server: HttpServer) -> None:
    server.answer = http_answer(201, b'{"id": 7}', content_type="application/json", x_one="1")
    url = f"{server.url}/orders?dry=1"
    made = await call(
        harness, url=url, method="POST", json={"ü": [1, None]}, headers={"X-Two": "2"}
    )
    assert made.result["status"] == 201
    assert made.result["url"] == url
    assert json.loads(made.result["body"]) == {"id": 7}
    assert made.result["body_encoding"] == "text"
    assert made.result["headers"]["X-One"] == "1"
    assert not made.result["truncated"]
    assert made.result["elapsed_seconds"] < 15
    (received,) = server.requests
    assert received.method == "POST"
    assert json.loads(received.body) == {"ü": [1, None]}
    assert received.headers["content-type"] == "application/json"
    assert received.headers["x-two"] == "2"
    assert received.headers["idempotency-key"] == made.job_id
    assert "'method': 'POST'" in made.log
    assert "'status': 201" in made.log


async def test_text_is_sent_and_the_users_headers_count(
    harness: Harness, server: HttpServer
) -> None:
    headers = {"content-type": "text/csv", "idempotency-KEY": "mine"}
    await call(harness, url=server.url, method="PUT", body="a;b\n", headers=headers)
    (received,) = server.requests
    assert received.body == b"a;b\n"
    assert received.headers["content-type"] == "text/csv"
    assert received.headers["idempotency-key"] == "mine"


async def test_json_null_is_a_body(harness: Harness, server: HttpServer) -> None:
    await call(harness, url=server.url, method="POST", json=None)
    assert server.requests[0].body == b"null"


async def test_no_secret_is_written_down(harness: Harness, server: HttpServer) -> None:
    async def echo(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        said = json.dumps(request.headers).encode()
        status = 418 if request.target.startswith("/teapot") else 200
        writer.write(
            http_answer(
                status,
                said,
                set_cookie="session=canary-cookie",
                location="/?code=canary-code",
                x_echo=request.headers["x-special"],
            )
        )

    server.answer = echo
    payload = {
        "headers": {"Authorization": "Bearer canary-bearer", "Cookie": "a=canary-baked"},
        "secret_headers": {"X-Special": "canary-special"},
    }
    for path in ("/?token=canary-token&page=2", "/teapot?api_key=canary-token"):
        made = await call(harness, url=server.url + path, **payload)
        assert "canary" not in made.everything
        assert "[redacted]" in made.everything
    first, _ = server.requests
    assert first.headers["x-special"] == "canary-special"
    assert first.headers["authorization"] == "Bearer canary-bearer"
    assert first.target == "/?token=canary-token&page=2"


@pytest.mark.parametrize(
    "repeated",
    [
        pytest.param(b"{}\r\n\r\n", id="no-status-line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n{}\r\n\r\n", id="no-header"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: /{}\r\n\r\n", id="a-redirect"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: http://{}.invalid/\r\n\r\n", id="a-name"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n\0{}\xff", id="no-text"),
    ],
)
async def test_no_secret_is_written_down_that_comes_back_where_none_belongs(
    harness: Harness, server: HttpServer, repeated: bytes
) -> None:
    async def repeat(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        is_first = request.target == "/"
        writer.write(repeated.replace(b"{}", b"canary-special") if is_first else http_answer(404))

    server.answer = repeat
    secret = {"secret_headers": {"X-Special": "canary-special"}}
    made = await call(harness, url=server.url, follow_redirects=1, **secret)
    shown = made.everything
    if made.outcome.kind is OutcomeKind.COMPLETED:
        shown += base64.b64decode(made.result["body"]).decode("latin-1")
    assert "canary" not in shown
    assert server.requests[0].headers["x-special"] == "canary-special"


async def test_blanks_around_a_secret_neither_matter_nor_give_it_away(
    harness: Harness, server: HttpServer
) -> None:
    secrets = {"Authorization": " Bearer canary-token ", "X-Special": "\tcanary-special"}
    made = await call(harness, url=server.url, secret_headers=secrets)
    assert made.outcome.kind is OutcomeKind.COMPLETED, made.outcome
    assert "canary" not in made.everything
    (received,) = server.requests
    assert received.headers["authorization"] == "Bearer canary-token"
    assert received.headers["x-special"] == "canary-special"


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 422, 302])
async def test_these_answers_fail_for_good(
    harness: Harness, server: HttpServer, status: int
) -> None:
    server.answer = http_answer(status, b"why it was refused", location="/elsewhere")
    made = await call(harness, url=server.url)
    assert made.outcome.kind is OutcomeKind.FAILED
    assert made.outcome.error is not None
    assert f"answered with {status}" in made.outcome.error.message
    assert "why it was refused" in made.log


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
async def test_these_answers_are_tried_again(
    harness: Harness, server: HttpServer, status: int
) -> None:
    server.answer = http_answer(status, retry_after="77")
    made = await call(harness, url=server.url)
    assert made.outcome.kind is OutcomeKind.RETRYABLE
    assert made.outcome.delay_seconds == 77


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        ("0", 0, 0),
        ("9999999999999999999999999", 86_400, 86_400),
        ("soon", 0.7, 1.3),
        ("-5", 0.7, 1.3),
        ("Mon, 20 Nov 1995 19:12:08 -99999999999999999999", 0.7, 1.3),
        (f"Mon, 20 Nov {'9' * 30} 19:12:08 GMT", 0.7, 1.3),
        pytest.param(
            format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True),
            # The date is made when tests are collected.
            1_800,
            3_600,
            id="in-an-hour",
        ),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0),
    ],
)
async def test_when_to_come_back(
    harness: Harness, server: HttpServer, retry_after: str, least: float, most: float
) -> None:
    server.answer = http_answer(429, retry_after=retry_after)
    made = await call(harness, url=server.url)
    assert "answered with 429" in made.everything
    assert least <= made.outcome.delay_seconds <= most


async def test_what_is_expected_is_for_the_user_to_say(
    harness: Harness, server: HttpServer
) -> None:
    server.answer = http_answer(404, b"gone")
    made = await call(harness, url=server.url, expected_statuses=[204, 404])
    assert made.result["status"] == 404
    server.answer = http_answer(200)
    made = await call(harness, url=server.url, expected_statuses=[204, 404])
    assert made.outcome.kind is OutcomeKind.FAILED


async def test_a_long_answer_is_cut_off(harness: Harness, server: HttpServer) -> None:
    server.answer = http_answer(200, "ä".encode() * 100)
    made = await call(harness, url=server.url, max_answer_bytes=11)
    assert made.result["body"] == "ä" * 5
    assert made.result["truncated"]
    assert made.result["body_bytes"] == 11


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"caf\xe9", "text/plain; charset=iso-8859-1", "café"),
        (b"caf\xe9", 'text/plain; charset="latin1"', "café"),
        ("äöü".encode("utf-16"), "text/plain; charset=utf-16", "äöü"),
        (b"plain", "text/plain; charset=punycode", "plain"),
        (b"plain", "text/plain; charset=nonsense", "plain"),
    ],
)
async def test_text_by_its_charset(
    harness: Harness, server: HttpServer, body: bytes, content_type: str, text: str
) -> None:
    server.answer = http_answer(200, body, content_type=content_type)
    assert (await call(harness, url=server.url)).result["body"] == text


@pytest.mark.parametrize("body", [b"\xff\xfe\x00\x01", b"a\0b"])
async def test_what_is_no_text_comes_as_base64(
    harness: Harness, server: HttpServer, body: bytes
) -> None:
    server.answer = http_answer(200, body)
    made = await call(harness, url=server.url)
    assert made.result["body_encoding"] == "base64"


async def test_redirects_are_followed_when_asked(harness: Harness, server: HttpServer) -> None:
    async def once(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        is_first = request.target == "/"
        writer.write(http_answer(302, location="/there") if is_first else http_answer(200, b"ok"))

    server.answer = once
    made = await call(harness, url=server.url, follow_redirects=1)
    assert (made.result["redirects"], made.result["url"]) == (1, f"{server.url}/there")


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.2/", "http://169.254.169.254/latest/meta-data/"),
        *("http://10.0.0.1/", "http://[::1]:8000/", "http://0x7f.2/", "http://[64:ff9b::7f00:1]/"),
        *("http://user:password@127.0.0.1/", "http://127.0.0.1:22/"),
    ],
)
async def test_what_never_leaves_us_fails_for_good(harness: Harness, url: str) -> None:
    made = await call(harness, url=url)
    assert made.outcome.kind is OutcomeKind.FAILED
    assert made.outcome.error is not None
    assert not made.outcome.error.retryable


async def test_a_server_that_is_away_is_tried_again(harness: Harness) -> None:
    async with HttpServer() as server:
        url = server.url
    made = await call(harness, url=url)
    assert made.outcome.kind is OutcomeKind.RETRYABLE


async def test_a_server_that_takes_too_long_is_tried_again(
    harness: Harness, server: HttpServer
) -> None:
    async def silent(_: ReceivedRequest, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server.answer = silent
    made = await call(harness, url=server.url, timeout_seconds=0.2)
    assert made.outcome.kind is OutcomeKind.RETRYABLE
    assert made.outcome.error is not None
    assert "0.2 s" in made.outcome.error.message


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"url": "ftp://example.com"},
        {"url": "http://a/", "method": "TRACE"},
        {"url": "http://a/", "body": "x", "json": 1},
        {"url": "http://a/", "headers": {"A": "1"}, "secret_headers": {"a": "2"}},
        {"url": "http://a/", "timeout_seconds": 301},
        {"url": "http://a/", "expected_statuses": []},
        {"url": "http://a/", "unknown": 1},
    ],
)
async def test_payloads_that_do_not_fit(harness: Harness, payload: dict[str, object]) -> None:
    made = await call(harness, **payload)
    assert made.outcome.error is not None
    assert made.outcome.error.type == "invalid_payload"


async def test_a_header_that_would_become_two_fails(harness: Harness, server: HttpServer) -> None:
    made = await call(harness, url=server.url, headers={"X": "a\r\nHost: evil"})
    assert made.outcome.kind is OutcomeKind.FAILED
    assert server.requests == []


def test_its_schema_marks_what_is_secret() -> None:
    schema = REGISTRY["http.request"].payload_schema
    assert schema["properties"]["secret_headers"]["additionalProperties"]["writeOnly"] is True
    assert schema["additionalProperties"] is False
    assert "json" in schema["properties"]
