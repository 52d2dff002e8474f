"""The service as a process: its start, its protocol, its log, its end."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from taskflow_testing.jobs import Jobs
from taskflow_testing.services import Servers, ServiceProcess, Services
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"
Register = Callable[..., Awaitable[None]]


@pytest.fixture
async def services(own_servers: Servers, tmp_path: Path) -> AsyncIterator[Services]:
    services = Services(own_servers, tmp_path, tmp_path, log_level="DEBUG")
    yield services
    await services.stop()


async def raw(services: Services, request: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """The status line, headers and body that these bytes are answered with."""
    port = int(services.environment()["TASKFLOW_API_PORT"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    await writer.wait_closed()
    return status.encode(), headers, body


def post_head(services: Services, *lines: str) -> bytes:
    head = [
        f"POST {JOBS} HTTP/1.1",
        "Host: localhost",
        f"X-API-Key: {services.api_key}",
        "Content-Type: application/json",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode()


async def test_a_process_serves_says_what_it_did_and_ends_well(
    services: Services, register: Register, jobs: Jobs
) -> None:
    process = await services.start_api()
    async with services.client() as api:
        created = await api.post(
            JOBS, json={"type": "echo"}, headers={"X-Request-ID": "canary-request"}
        )
        assert created.status_code == 202
        assert "Server" not in created.headers
        wait = asyncio.create_task(
            api.get(created.headers["Location"], headers={"Prefer": "wait=30"})
        )
        await asyncio.wait([wait], timeout=0.5)
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        held = await wait
        code = await process.wait(15)

    # Who waits is answered at once, not after its time.
    assert (held.status_code, held.json()["state"]) == (200, "queued")
    assert time.monotonic() - began < 10
    assert code == 0, process.log_tail()
    line = next(
        line for line in process.events("http_request") if line["request_id"] == "canary-request"
    )
    assert line | {"ms": 0} == line | {
        "ms": 0,
        "event": "http_request",
        "method": "POST",
        "path": JOBS,
        "status": 202,
        "job_id": created.json()["id"],
        "level": "info",
        "service": "api",
    }
    assert line["timestamp"].endswith("Z")
    text = process.log_path.read_text()
    for secret in (services.api_key, urlsplit(services.servers.database_url).password or "-"):
        assert secret not in text


async def test_what_comes_over_the_wire(services: Services, register: Register) -> None:
    process = await services.start_api()
    body = b'{"type": "echo", "payload": {"text": "hi"}}'
    chunked = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in body) + b"0\r\n\r\n"

    status, *_ = await raw(services, post_head(services, "Transfer-Encoding: chunked") + chunked)
    assert status == b"HTTP/1.1 202 Accepted"

    # Too large is said while the client still sends.
    endless = (
        post_head(services, "Transfer-Encoding: chunked")
        + b"10000\r\n%s\r\n" % (b" " * 0x10000)
        + b"40000\r\n"
        + b" " * 0x40000
    )
    status, headers, content = await raw(services, endless)
    assert status.startswith(b"HTTP/1.1 413")
    assert headers["content-type"] == "application/problem+json"
    announced = post_head(services, "Content-Length: 262145", "Expect: 100-continue")
    status, *_ = await raw(services, announced)
    assert status.startswith(b"HTTP/1.1 413")
    status, *_ = await raw(services, post_head(services, f"Content-Length: {'9' * 30}"))
    assert status.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))

    for garbage in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        status, headers, content = await raw(services, garbage)
        assert status.startswith(b"HTTP/1.1 400")
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(content)["request_id"] == headers["x-request-id"]

    huge = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000
    status, headers, content = await raw(services, huge)
    assert status.startswith(b"HTTP/1.1 431")
    assert json.loads(content)["code"] == "headers_too_large"
    status, headers, content = await raw(
        services,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    )
    assert (status, content) == (b"HTTP/1.1 200 OK", b'{"status":"ok"}')

    # A body that is shorter than announced: the client leaves, and nothing breaks.
    port = int(services.environment()["TASKFLOW_API_PORT"])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post_head(services, "Content-Length: 100") + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    async def left() -> list[dict[str, Any]]:
        return [line for line in process.events("http_request") if line["status"] == 499]

    await eventually(left)
    assert process.events("request_failed") == []


async def test_a_client_that_leaves_ends_its_wait(
    services: Services, register: Register, jobs: Jobs
) -> None:
    process = await services.start_api()
    job_id = await jobs.submit()
    async with services.client() as api:
        with pytest.raises(httpx.ReadTimeout):
            await api.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=30"}, timeout=0.5)

    async def left() -> list[dict[str, Any]]:
        return [line for line in process.events("http_request") if line["status"] == 499]

    (line,) = await eventually(left)
    assert line["ms"] < 10_000


async def test_it_starts_and_accepts_with_postgresql_alone(
    own_servers: Servers, tmp_path: Path, register: Register
) -> None:
    services = Services(
        own_servers,
        tmp_path,
        tmp_path,
        amqp_url="amqp://guest:guest@127.0.0.1:1/x",
        redis_url="redis://127.0.0.1:1/0",
        s3_endpoint="http://127.0.0.1:1",
    )
    await services.start_api()
    async with services.client() as api:
        assert (await api.post(JOBS, json={"type": "echo"})).status_code == 202
        assert (await api.get("/api/v1/health")).json()["status"] == "degraded"
    await services.stop()


async def refusal(process: ServiceProcess) -> str:
    """The one line that a process ends with at its start."""
    code = await process.wait(30)
    text = process.log_path.read_text()
    assert code != 0
    lines = [line for line in text.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, text
    return lines[0]


async def test_a_port_that_is_taken_is_named(services: Services) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = services.launch("api", api_port=port)
        line = await refusal(process)
    assert f"port {port}" in line
    assert "TASKFLOW_API_PORT" in line
    assert services.api_key not in process.log_path.read_text()


async def test_a_wrong_database_url_is_named(services: Services) -> None:
    url = urlsplit(services.servers.database_url)
    wrong = f"postgresql://{url.username}:wrong-word@{url.hostname}:{url.port}{url.path}"
    line = await refusal(services.launch("api", database_url=wrong))
    assert "TASKFLOW_DATABASE_URL" in line
    assert "password authentication failed" in line
    assert "wrong-word" not in line


async def test_a_schema_that_is_behind_is_refused(
    services: Services, connection: asyncpg.Connection
) -> None:
    revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    await connection.execute("UPDATE alembic_version SET version_num = '0000'")
    try:
        line = await refusal(services.launch("api"))
    finally:
        await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
    assert "make migrate" in line


async def test_a_malformed_setting_is_named(services: Services) -> None:
    wrong = {"api_key": "short", "api_port": "eighty", "database_url": "mysql://x", "amqp_url": ""}
    line = await refusal(services.launch("api", **wrong))
    for name in wrong:
        assert f"TASKFLOW_{name.upper()}" in line
