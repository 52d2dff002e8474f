"""A secret is put in everywhere, and looked for wherever it could come to lie."""

import asyncio
import base64
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx

from taskflow import api_key
from taskflow.log_setup import REDACTED
from taskflow_testing.database import dump
from taskflow_testing.job_client import JobClient
from taskflow_testing.object_store import objects_in
from taskflow_testing.redis_database import content_of
from taskflow_testing.services import NewServices, Servers, Services

JOBS = "/api/v1/jobs"
REGISTER, TOKEN = "/api/v1/auth/register", "/api/v1/auth/token"
ME, LOGOUT = "/api/v1/auth/me", "/api/v1/auth/logout"
API_KEYS = "/api/v1/api-keys"
CANARY = "CanaryThatNobodyMaySee"
PASSWORD_CANARY, TOKEN_CANARY = "a-password-nobody-may-see", "a-token-nobody-may-see"
RIGHT, WRONG = f"{PASSWORD_CANARY}-right", f"{PASSWORD_CANARY}-wrong"
USER = {"email": "canary@example.com", "password": RIGHT}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


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
    account_secrets, told = await use_accounts(services)
    processes = list(services.processes)
    await services.stop()

    dead = await dead_messages(real_servers.amqp_url)
    stored = objects_in(real_servers.s3)
    assert dead
    assert any(b"signing in" in content for content in stored.values())
    logged = {process.name.split()[0]: process.log_path.read_text() for process in processes}
    assert set(logged) == {"api", "consumer", "scheduler"}
    assert "http_request" in logged["api"]
    for where, what in {"answers": shown, "dead": dead, "objects": stored, "logs": logged}.items():
        assert CANARY not in repr(what), where
    # The process's own are secrets, too.
    password = urlsplit(real_servers.database_url).password
    for secret in (services.api_key, services.jwt_secret, password, real_servers.s3.secret_key):
        assert secret
        assert not [name for name, text in logged.items() if secret in text]
    # Of accounts and keys nothing is kept in the clear at all, not even where payloads are.
    rows, cached = await dump(real_servers.database_url), content_of(real_servers.redis_url)
    assert USER["email"] in rows
    assert any(b"login" in key for key in cached)
    places = {"answers": told, "dead": dead, "objects": stored, "logs": logged}
    texts = {where: repr(what) for where, what in {**places, "rows": rows, "redis": cached}.items()}
    assert not {where for where, text in texts.items() if any(s in text for s in account_secrets)}


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


async def use_accounts(services: Services) -> tuple[list[str], list[str]]:
    """All that is secret of a user and of its keys, as it could be written; answers without any.

    Somebody registers, signs in, refreshes, makes and uses keys and signs out, and does wrongly
    what can be done wrongly.
    """
    async with services.client() as http:
        del http.headers["X-API-Key"]
        registered = await http.post(REGISTER, json=USER)
        sessions = await sign_in(http)
        keys = await use_keys(http, sessions[0]["access_token"])
        told = [registered, *await misuse(http, sessions, keys)]
        bearer = {"Authorization": f"Bearer {sessions[0]['access_token']}"}
        told += [await http.get(ME, headers=bearer), await http.post(LOGOUT, headers=bearer)]
        assert [answer.status_code for answer in told[-2:]] == [200, 204]
    secrets = [PASSWORD_CANARY, TOKEN_CANARY, base64.b64encode(f"client:{WRONG}".encode()).decode()]
    secrets += [session["access_token"].rpartition(".")[2] for session in sessions]
    secrets += [session["refresh_token"].removeprefix("tf_refresh_") for session in sessions]
    secrets += [api_key.parse(key).secret for key in keys]
    written = [form for secret in secrets for form in forms(secret)]
    return written, [f"{answer.headers} {answer.text}" for answer in told]


async def sign_in(http: httpx.AsyncClient) -> list[dict[str, str]]:
    """Tokens by a form, by JSON, and twice by a refresh token."""
    answers = [
        await http.post(TOKEN, data={"username": USER["email"], "password": RIGHT}),
        await http.post(TOKEN, json=USER),
    ]
    for _ in range(2):
        answers.append(await http.post(TOKEN, json=renewal(answers[-1].json()["refresh_token"])))
    assert [answer.status_code for answer in answers] == [200] * 4
    return [answer.json() for answer in answers]


async def use_keys(http: httpx.AsyncClient, access_token: str) -> list[str]:
    """A key, and the one that took its place and was revoked."""
    made = await http.post(
        API_KEYS,
        json={"name": "shop", "scopes": ["admin"]},
        headers={"Authorization": f"Bearer {access_token}"},
    )
    own = {"X-API-Key": made.json()["key"]}
    path = made.headers["Location"]
    rotated = await http.post(f"{path}/rotate", json={}, headers=own)
    new = {"Authorization": f"Bearer {rotated.json()['key']}"}
    revoked = await http.delete(rotated.headers["Location"], headers=new)
    assert revoked.status_code == 204
    return [made.json()["key"], rotated.json()["key"]]


async def misuse(
    http: httpx.AsyncClient, sessions: list[dict[str, str]], keys: list[str]
) -> list[httpx.Response]:
    """What the API answers where a secret is wrong, or in a place that is none for it."""
    user = {"username": USER["email"]}
    calls: list[tuple[str, dict[str, Any]]] = [
        (REGISTER, {"json": USER | {"password": [WRONG]}}),
        (REGISTER, {"json": USER | {"password": WRONG * 9}}),
        (REGISTER, {"json": USER | {"again": WRONG}}),
        (REGISTER, {"content": f'{{"password": {WRONG}', "headers": JSON}),
        *((TOKEN, {kind: user | {"password": WRONG}}) for kind in ("json", "data")),
        # As it happens to who types it too early.
        (TOKEN, {"data": {"username": WRONG, "password": WRONG}}),
        (TOKEN, {"data": user | {"password": WRONG, "scope": WRONG}}),
        (TOKEN, {"data": user | {"password": WRONG, "grant_type": WRONG}}),
        (TOKEN, {"content": WRONG, "headers": FORM}),
        (TOKEN, {"data": user, "params": {"password": WRONG}}),
        (TOKEN, {"data": {"grant_type": "refresh_token"}, "auth": ("client", WRONG)}),
        (TOKEN, {"json": renewal(WRONG)}),
        (TOKEN, {"json": renewal(f"tf_refresh_{TOKEN_CANARY:A<43}")}),
        # Used for the second time, by a thief for all that can be told.
        (TOKEN, {"json": renewal(sessions[1]["refresh_token"])}),
        (API_KEYS, {"json": {"name": "shop"}, "headers": {"X-API-Key": keys[1]}}),
        (API_KEYS, {"json": {"name": "shop"}, "headers": {"X-API-Key": f"{keys[0]}0"}}),
        (API_KEYS, {"params": {"api_key": keys[0]}}),
        (LOGOUT, {"headers": {"Authorization": f"Bearer {sessions[0]['access_token']}A"}}),
        (LOGOUT, {"params": {"access_token": sessions[0]["access_token"]}}),
    ]
    answers = [await http.post(path, **call) for path, call in calls]
    assert {answer.status_code for answer in answers} == {400, 401, 422}
    return answers


def renewal(token: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": token}


def forms(secret: str) -> list[str]:
    """How it could be written down."""
    content = secret.encode()
    return [secret, content.hex(), base64.b64encode(content).decode().rstrip("=")]


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
    bodies = [f'{{"type": "echo", "password": {CANARY}', f'"{CANARY}"', CANARY * 20_000]
    answers += [await http.post(JOBS, content=body, headers=JSON) for body in bodies]
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
