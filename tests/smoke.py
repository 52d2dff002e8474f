"""`make smoke`: the main public flows against whatever runs; exits non-zero on a miss.

Where and with which key: TASKFLOW_API_URL, or TASKFLOW_API_HOST and TASKFLOW_API_PORT, and
TASKFLOW_API_KEY, from the environment or from .env.
"""

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from pydantic import SecretStr

from taskflow.errors import ConfigurationError
from taskflow.settings import Settings, exit_with, load_settings

PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.1
ENDED = {"completed", "failed", "cancelled", "expired"}

Job = dict[str, Any]


class SmokeSettings(Settings):
    """Where the API is, and the key to it."""

    api_key: SecretStr
    api_url: str | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 8000


class Miss(Exception):
    """Something else came than was expected; the text says both."""


class Api:
    """The API, and what is expected of it."""

    def __init__(self, client: httpx.AsyncClient, mark: str) -> None:
        self.client = client
        self.mark = mark
        """A tag that tells this run's jobs from all others."""

    async def call(self, method: str, path: str, expected: int, **request: Any) -> httpx.Response:
        """Send a request.

        Raises:
            Miss: another status came, or no answer.
        """
        try:
            answer = await self.client.request(method, path, **request)
        except httpx.TransportError as error:
            raise Miss(
                f"{method} {path}: no answer from {self.client.base_url} ({error!r})"
            ) from error
        expect(f"status of {method} {path}", answer.status_code, expected, answer.text)
        return answer

    async def submit(self, job_type: str, payload: Job, **fields: Any) -> Job:
        """Submit a job that is to be accepted."""
        body = {"type": job_type, "payload": payload, "tags": [self.mark], **fields}
        return dict((await self.call("POST", "/api/v1/jobs", 202, json=body)).json())

    async def get(self, job: Job) -> Job:
        """The job as it stands now."""
        return dict((await self.call("GET", f"/api/v1/jobs/{job['id']}", 200)).json())

    async def ends(self, job: Job, state: str) -> Job:
        """The job once it has ended, which is to be in `state`.

        Raises:
            Miss: it ended otherwise, or not in time.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := await self.get(job))["state"] not in ENDED:
            if time.monotonic() > deadline:
                hint = "; does a consumer run?" if found["state"] == "queued" else ""
                raise Miss(
                    f"job {job['id']} is still {found['state']} after {PATIENCE_SECONDS:g} s,"
                    f" expected {state}{hint}"
                )
            await asyncio.sleep(POLL_SECONDS)
        expect(f"state of job {job['id']}", found["state"], state, found.get("error"))
        return found


def expect(what: str, seen: object, expected: object, context: object = None) -> None:
    """Raise Miss unless `seen` is what is `expected`."""
    if seen != expected:
        more = "" if context is None else f"\n  {context}"
        raise Miss(f"{what}: expected {expected!r}, saw {seen!r}{more}")


async def health(api: Api) -> None:
    """Health: alive, ready, and every server well"""
    await api.call("GET", "/healthz", 200)
    await api.call("GET", "/readyz", 200)
    await api.call("GET", "/api/v1/health", 200)


async def complete_with_result_and_log(api: Api) -> None:
    """A job completes, with its result and its log"""
    submitted = await api.submit("echo", {"text": api.mark})
    job = await api.ends(submitted, "completed")
    expect("result", job["result"], {"text": api.mark})
    expect("attempt", job["attempt"], 1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while api.mark not in (log := (await api.call("GET", job["links"]["logs"], 200)).text):
        if time.monotonic() > deadline:
            raise Miss(f"log of job {job['id']}: expected a line with {api.mark}, saw {log!r}")
        await asyncio.sleep(POLL_SECONDS)


async def permanent_failure(api: Api) -> None:
    """A permanent failure fails at the first attempt"""
    job = await api.ends(await api.submit("flaky", {"permanent": True}), "failed")
    expect("attempt", job["attempt"], 1)
    expect("error.retryable", job["error"]["retryable"], False)


async def retried_until_it_works(api: Api) -> None:
    """A failure is retried until the job completes"""
    job = await api.ends(await api.submit("flaky", {"fail_times": 1}), "completed")
    expect("attempt", job["attempt"], 2)


async def retries_used_up(api: Api) -> None:
    """A job whose retries are used up fails"""
    job = await api.submit("flaky", {"fail_times": 9}, max_attempts=2)
    job = await api.ends(job, "failed")
    expect("attempt", job["attempt"], 2)
    attempts = (await api.call("GET", job["links"]["attempts"], 200)).json()["items"]
    expect("outcomes", [each["outcome"] for each in attempts], ["retryable", "failed"])


async def same_key_twice(api: Api) -> None:
    """The same Idempotency-Key twice is one job; with another body it is refused"""
    body = {"type": "echo", "payload": {"text": "once"}, "tags": [api.mark]}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = await api.call("POST", "/api/v1/jobs", 202, json=body, headers=key)
    again = await api.call("POST", "/api/v1/jobs", 202, json=body, headers=key)
    expect("id of the second answer", again.json()["id"], first.json()["id"])
    expect("Idempotent-Replayed", again.headers.get("Idempotent-Replayed"), "true")
    other = {**body, "payload": {"text": "twice"}}
    refused = await api.call("POST", "/api/v1/jobs", 422, json=other, headers=key)
    expect("code", refused.json()["code"], "idempotency_key_reused")


async def cancelled_while_waiting(api: Api) -> None:
    """A waiting job is cancelled"""
    job = await api.submit("echo", {"text": "never"}, delay_seconds=3600)
    expect("state", job["state"], "scheduled")
    answer = await api.call("POST", f"/api/v1/jobs/{job['id']}/cancel", 200)
    expect("state", answer.json()["state"], "cancelled")
    await api.call("POST", f"/api/v1/jobs/{job['id']}/cancel", 200)
    expect("state later on", (await api.get(job))["state"], "cancelled")


async def cancelled_while_running(api: Api) -> None:
    """A running job is cancelled"""
    job = await api.submit("sleep", {"seconds": 300})
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := await api.get(job))["state"] != "running":
        if time.monotonic() > deadline:
            raise Miss(f"job {job['id']} is {found['state']}, expected running")
        await asyncio.sleep(POLL_SECONDS)
    answer = await api.call("POST", f"/api/v1/jobs/{job['id']}/cancel", 202)
    expect("cancel_requested", answer.json()["cancel_requested"], True)
    await api.ends(job, "cancelled")


async def filtered_lists(api: Api) -> None:
    """Lists are filtered, and their pages skip and repeat nothing"""
    tag = f"{api.mark}-list"
    submitted = [
        (await api.submit("echo", {"text": str(number)}, tags=[tag], delay_seconds=3600))["id"]
        for number in range(5)
    ]
    listed: list[str] = []
    query: dict[str, Any] = {"tag": tag, "state": "scheduled", "limit": 2}
    while True:
        page = (await api.call("GET", "/api/v1/jobs", 200, params=query)).json()
        listed += [job["id"] for job in page["items"]]
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    expect("ids, newest first", listed, submitted[::-1])
    nothing = {"tag": tag, "state": "failed"}
    page = (await api.call("GET", "/api/v1/jobs", 200, params=nothing)).json()
    expect("failed ones of that tag", page["items"], [])
    for job_id in submitted:
        await api.call("POST", f"/api/v1/jobs/{job_id}/cancel", 200)


async def refusals(api: Api) -> None:
    """What is wrong is refused as a problem"""
    unknown = await api.call("POST", "/api/v1/jobs", 422, json={"type": "no.such.type"})
    expect("code", unknown.json()["code"], "unknown_job_type")
    await api.call("GET", f"/api/v1/jobs/{uuid.uuid4()}", 404)
    answer = await api.call("GET", "/api/v1/jobs", 401, headers={"X-API-Key": "wrong"})
    expect("Content-Type", answer.headers["Content-Type"], "application/problem+json")


FLOWS: tuple[Callable[[Api], Awaitable[None]], ...] = (
    health,
    complete_with_result_and_log,
    permanent_failure,
    retried_until_it_works,
    retries_used_up,
    same_key_twice,
    cancelled_while_waiting,
    cancelled_while_running,
    filtered_lists,
    refusals,
)


async def main(settings: SmokeSettings) -> int:
    """Try every flow; how many missed."""
    url = settings.api_url or f"http://{settings.api_host}:{settings.api_port}"
    headers = {"X-API-Key": settings.api_key.get_secret_value()}
    misses = 0
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False
    ) as client:
        api = Api(client, f"smoke-{uuid.uuid4().hex[:12]}")
        for flow in FLOWS:
            began_at = time.monotonic()
            try:
                await flow(api)
                verdict, detail = "ok  ", ""
            except (Miss, KeyError, TypeError, ValueError) as error:
                # The last three: an answer of another shape than was promised.
                misses += 1
                verdict, detail = "MISS", f"\n  {type(error).__name__}: {error}"
            seconds = time.monotonic() - began_at
            print(f"{verdict} {seconds:6.2f} s  {flow.__doc__}{detail}", flush=True)
    print(f"{len(FLOWS) - misses} of {len(FLOWS)} flows work at {url}")
    return misses


if __name__ == "__main__":
    try:
        sys.exit(1 if asyncio.run(main(load_settings(SmokeSettings))) else 0)
    except ConfigurationError as error:
        exit_with(error)
