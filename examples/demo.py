"""`make demo`: a lively mix of jobs for a while, so that there is something to look at.

make demo                                   200 jobs over about a minute
.venv/bin/python examples/demo.py --jobs 1000 --seconds 120
"""

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections import Counter
from typing import Any

import httpx
from pydantic import SecretStr

from taskflow.errors import ConfigurationError
from taskflow.settings import Settings, exit_with, load_settings

PRIORITIES = ("low", "medium", "medium", "medium", "high", "urgent")
CUSTOMERS = ("ada", "grace", "linus", "margaret")
WORDS = ("invoice", "report", "newsletter", "backup", "thumbnail", "export", "reminder")
ENDED = ("completed", "failed", "cancelled", "expired")
SUMMARY_EVERY_SECONDS = 2.0
PATIENCE_SECONDS = 120.0

Job = dict[str, Any]


class DemoSettings(Settings):
    """Where the API is, and the key to it."""

    api_key: SecretStr
    api_url: str | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 8000


def make_job(tag: str) -> Job:
    """One of the kinds of jobs, chosen by chance."""
    word = random.choice(WORDS)
    customer = random.choice(CUSTOMERS)
    kinds: list[Job] = [
        {"type": "echo", "payload": {"text": f"{word} for {customer}"}},
        {"type": "sleep", "payload": {"seconds": round(random.uniform(0.2, 6), 1)}},
        {"type": "flaky", "payload": {"fail_times": random.randint(1, 2)}},
        {"type": "flaky", "payload": {"fail_times": 9}, "max_attempts": 2},
        {"type": "flaky", "payload": {"permanent": True}},
        {"type": "echo", "payload": {"text": "later"}, "delay_seconds": random.randint(3, 15)},
    ]
    (kind,) = random.choices(kinds, weights=[40, 25, 12, 5, 5, 13])
    return {
        **kind,
        "name": f"{word} of {customer}",
        "priority": random.choice(PRIORITIES),
        "tags": [tag, customer, word],
        "metadata": {"customer": customer},
    }


async def submit_all(client: httpx.AsyncClient, tag: str, jobs: int, seconds: float) -> None:
    """Submit `jobs` jobs, spread by chance over about `seconds`; cancel one in twenty-five."""
    for _ in range(jobs):
        answer = await client.post(
            "/api/v1/jobs",
            json=make_job(tag),
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        if answer.status_code not in {200, 202}:
            sys.exit(f"{answer.status_code}: {answer.text}")
        if random.random() < 1 / 25:
            await client.post(f"/api/v1/jobs/{answer.json()['id']}/cancel")
        await asyncio.sleep(random.expovariate(jobs / seconds))


async def count_states(client: httpx.AsyncClient, tag: str) -> Counter[str]:
    """This demo's jobs by state."""
    counts: Counter[str] = Counter()
    query: dict[str, Any] = {"tag": tag, "limit": 100}
    while True:
        answer = await client.get("/api/v1/jobs", params=query)
        answer.raise_for_status()
        page = answer.json()
        counts.update(job["state"] for job in page["items"])
        if not page["has_more"]:
            return counts
        query["cursor"] = page["next_cursor"]


async def watch(client: httpx.AsyncClient, tag: str, jobs: int) -> None:
    """Print a line every two seconds until all have ended."""
    began_at = time.monotonic()
    last_change, last = began_at, Counter[str]()
    while True:
        counts = await count_states(client, tag)
        line = "  ".join(f"{state} {count}" for state, count in sorted(counts.items()))
        print(f"{time.monotonic() - began_at:5.0f} s  {line}", flush=True)
        if sum(counts[state] for state in ENDED) == jobs:
            return
        if counts != last:
            last_change, last = time.monotonic(), counts
        elif time.monotonic() - last_change > PATIENCE_SECONDS:
            sys.exit(f"nothing has changed for {PATIENCE_SECONDS:g} s; does a consumer run?")
        await asyncio.sleep(SUMMARY_EVERY_SECONDS)


async def main(settings: DemoSettings, jobs: int, seconds: float) -> None:
    """Submit and watch, then say where to look."""
    url = settings.api_url or f"http://{settings.api_host}:{settings.api_port}"
    tag = f"demo-{uuid.uuid4().hex[:6]}"
    headers = {"X-API-Key": settings.api_key.get_secret_value()}
    print(f"{jobs} jobs with the tag {tag} over about {seconds:g} s to {url}")
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=30, trust_env=False
    ) as client:
        submitting = asyncio.create_task(submit_all(client, tag, jobs, seconds))
        watching = asyncio.create_task(watch(client, tag, jobs))
        await asyncio.gather(submitting, watching)
        failed = await client.get("/api/v1/jobs", params={"tag": tag, "state": "failed"})
    print(where_to_look(url, tag, failed.json()["items"]))


def where_to_look(url: str, tag: str, failed: list[Job]) -> str:
    """Lines that can be pasted."""
    key = "$(sed -n 's/^TASKFLOW_API_KEY=//p' .env)"
    curl = f'curl -s -H "X-API-Key: {key}"'
    lines = [
        "",
        f"All of them:     {curl} '{url}/api/v1/jobs?tag={tag}'",
        f"How many:        {curl} '{url}/api/v1/jobs/stats'",
        f"Who ran them:    {curl} '{url}/api/v1/workers'",
    ]
    if failed:
        one = failed[0]
        lines += [
            f"Why one failed:  {curl} '{url}/api/v1/jobs/{one['id']}/attempts'",
            f"Its log:         {curl} '{url}/api/v1/logs/{one['id']}'",
        ]
    return "\n".join([*lines, f"The API itself:  {url}/docs"])


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200, help="how many (200)")
    parser.add_argument("--seconds", type=float, default=60, help="over how long (60)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        asked = arguments()
        asyncio.run(main(load_settings(DemoSettings), asked.jobs, asked.seconds))
    except ConfigurationError as error:
        exit_with(error)
    except httpx.TransportError as error:
        sys.exit(f"the API does not answer ({error!r}); `make up` starts it")
    except KeyboardInterrupt:
        sys.exit(130)
