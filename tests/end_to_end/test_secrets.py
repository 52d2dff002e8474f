"""A secret is put in everywhere, and looked for wherever it could come to lie."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx

from taskflow.log_setup import REDACTED
from taskflow_testing.job_client import JobClient
from taskflow_testing.object_store import objects_in
from taskflow_testing.services import NewServices, Servers, Services

JOBS = "/api/v1/jobs"
CANARY = "CanaryThatNobodyMaySee"


async def test_a_secret_is_found_nowhere(new_services: NewServices, real_servers: Servers) -> None:
    services = new_services(
        real_servers,
        log_level="DEBUG",
        log_flush_seconds=0.2,
        outbound_allowed_networks="127.0.0.1",
    )
    await services.start_api()
    await services.start_consumer(handlers="secret_jobs")
    await services.start_scheduler()
    async with services.client() as http:
        shown = await run_jobs(JobClient(http))
        shown += await knock(http)
        shown += await send_garbage(services)
    await services.stop()

    dead = await dead_messages(real_servers.amqp_url)
    stored = objects_in(real_servers.s3)
    assert dead
    assert any(b"signing in" in content for content in stored.values())
    logged = {process.name: process.log_path.read_text() for process in services.processes}
    assert all("http_request" in text for name, text in logged.items() if name.startswith("api"))
    for where, what in {"answers": shown, "dead": dead, "objects": stored, "logs": logged}.items():
        assert CANARY not in repr(what), where
    # The process's own are secrets, too.
    password = urlsplit(real_servers.database_url).password
    for secret in (services.api_key, services.jwt_secret, password, real_servers.s3.secret_key):
        assert secret
        assert not [name for name, text in logged.items() if secret in text]


async def run_jobs(jobs: JobClient) -> list[str]:
    """What the API shows of jobs whose payloads hold the secret, whatever becomes of them."""
    payload = {"user": "ada", "password": CANARY}
    done = await jobs.submit("secret.logs", payload)
    outbound = await jobs.submit(
        "http.request",
        {
            "url": str(jobs.http.base_url.join(JOBS)),
            "secret_headers": {"X-API-Key": CANARY},
            "expected_statuses": [401],
        },
    )
    assert outbound["payload"]["secret_headers"] == {"X-API-Key": REDACTED}
    broken = [
        await jobs.submit("secret.fails", payload),
        await jobs.submit("secret.breaks", payload),
        await jobs.submit("secret.logs", payload | {"password": f"{CANARY} short"}),
    ]
    for job, line in ((done, "signing in as"), (outbound, "401")):
        await jobs.completes(job)
        await jobs.log_has(job, line)
    for job in broken:
        await jobs.reaches(job, "failed")
    refused = [
        await jobs.http.post(JOBS, json={"type": "secret.logs", "payload": {"password": CANARY}}),
        await jobs.http.post(JOBS, json={"type": "secret.logs", "payload": payload | {"user": []}}),
    ]
    assert {answer.status_code for answer in refused} == {422}
    ran = [done, outbound, *broken]
    pages = [await jobs.http.get(JOBS), *refused]
    for job in ran:
        links = job["links"].values()
        pages += [await jobs.http.get(link) for link in links]
    return [repr(job) for job in ran] + [page.text for page in pages]


async def knock(http: httpx.AsyncClient) -> list[str]:
    """What the API answers to those who have the secret in a place that is none for it."""
    places: list[dict[str, Any]] = [
        {"headers": {"X-API-Key": CANARY}},
        {"headers": {"X-API-Key": f"tf_live_AAAAAAAA_{CANARY}"}},
        *({"headers": {"Authorization": f"{kind} {CANARY}"}} for kind in ("Bearer", "Basic", "x")),
        {"headers": {"Cookie": f"session={CANARY}", "User-Agent": CANARY, "Referer": CANARY}},
        {"headers": {"Proxy-Authorization": CANARY, "X-Forwarded-For": CANARY, "Origin": CANARY}},
        {"headers": {"X-Request-ID": f"{CANARY} {CANARY}", "Prefer": CANARY}},
        {"params": {"limit": "1", "api_key": CANARY}},
        {"params": {"cursor": CANARY}},
    ]
    answers = [await http.get(JOBS, **place) for place in places]
    json_type = {"Content-Type": "application/json"}
    bodies = [f'{{"type": "echo", "password": {CANARY}', f'"{CANARY}"', CANARY * 20_000]
    answers += [await http.post(JOBS, content=body, headers=json_type) for body in bodies]
    answers.append(await http.post(JOBS, content=CANARY, headers={"Content-Type": "text/plain"}))
    assert all(answer.status_code < 500 for answer in answers)
    return [f"{answer.headers} {answer.text}" for answer in answers]


async def send_garbage(services: Services) -> list[str]:
    """What the server answers to what is no HTTP, and holds the secret."""
    port = int(services.environment()["TASKFLOW_API_PORT"])
    answers = []
    for garbage in (f"{CANARY}\r\n\r\n", f"GET / HTTP/1.1\r\nX-API-Key {CANARY}\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(garbage.encode())
        answers.append((await reader.read()).decode())
        writer.close()
        await writer.wait_closed()
    assert all(answer.startswith("HTTP/1.1 400") for answer in answers)
    return answers


async def dead_messages(amqp_url: str) -> list[tuple[bytes, Any]]:
    """The messages among the dead, which are taken out."""
    found = []
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue("jobs.dead", ensure=False)
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append((message.body, message.info()))
    return found
