"""A user who reads beside those who submit: asks the APIs at an even pace, notes every answer."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx

from taskflow_chaos.client import TRY_SECONDS
from taskflow_chaos.cluster import Cluster
from taskflow_chaos.stage import Stage

_CONNECTIONS = 200
_TEXT_SHOWN = 300


@dataclass(frozen=True)
class Reading:
    """An answer to a GET: its status, or `no connection` or `time-out`.

    `at`: when it was asked for, since 1970; `body` is that of a 200.
    """

    path: str
    status: str
    at: float
    seconds: float
    body: bytes = b""


@dataclass(frozen=True)
class Readings:
    """What was answered so far, and in words what no fault excuses."""

    answers: list[Reading] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[str]:
        """How often each status was answered."""
        return Counter(each.status for each in self.answers)


@contextlib.asynccontextmanager
async def reading(
    cluster: Cluster, next_path: Callable[[], str], per_second: float, accept: str = "*/*"
) -> AsyncIterator[Readings]:
    """Read during the block, from the APIs in turn, whether they answer or not."""
    readings = Readings()
    async with httpx.AsyncClient(
        headers={"X-API-Key": cluster.api_key, "Accept": accept},
        timeout=httpx.Timeout(TRY_SECONDS, pool=None),
        limits=httpx.Limits(max_connections=_CONNECTIONS),
        trust_env=False,
    ) as client:
        task = asyncio.create_task(_read(client, cluster.api_urls, next_path, per_second, readings))
        try:
            yield readings
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _read(
    client: httpx.AsyncClient,
    urls: list[str],
    next_path: Callable[[], str],
    per_second: float,
    readings: Readings,
) -> None:
    began = time.monotonic()
    turn = itertools.cycle(urls)
    async with asyncio.TaskGroup() as tasks:
        for number in itertools.count():
            await asyncio.sleep(began + number / per_second - time.monotonic())
            tasks.create_task(_ask(client, next(turn), next_path(), readings))


async def _ask(client: httpx.AsyncClient, url: str, path: str, readings: Readings) -> None:
    at, began = time.time(), time.monotonic()
    body = b""
    try:
        answer = await client.get(f"{url}{path}")
        status = str(answer.status_code)
        if answer.status_code == httpx.codes.OK:
            body = answer.content
        else:
            _judge(answer, path, readings)
    except httpx.TimeoutException:
        status = "time-out"
        readings.complaints.append(f"no answer to GET {path} within {TRY_SECONDS:.0f} s")
    except httpx.TransportError:
        status = "no connection"
    readings.answers.append(Reading(path, status, at, time.monotonic() - began, body))


def _judge(answer: httpx.Response, path: str, readings: Readings) -> None:
    """Of what is no 200, only a 503 that says when to come again is excused."""
    what = f"GET {path}: {answer.status_code}"
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        if "Retry-After" not in answer.headers:
            readings.complaints.append(f"{what} without Retry-After: {answer.text[:_TEXT_SHOWN]}")
    else:
        readings.complaints.append(f"{what}: {answer.text[:_TEXT_SHOWN]}")


@contextlib.asynccontextmanager
async def jobs_read(stage: Stage, per_second: float) -> AsyncIterator[None]:
    """Read jobs at random during the block; what no fault excuses is held against the run."""
    async with reading(stage.cluster, lambda: some_job(stage), per_second) as readings:
        try:
            yield
        finally:
            stage.client.complaints.extend(readings.complaints)
            stage.figures["reads"] = str(dict(readings.statuses))


def some_job(stage: Stage) -> str:
    """The path of a job that was accepted, at random; of the list while there is none."""
    accepted = stage.client.accepted
    return f"/api/v1/jobs/{stage.random.choice(accepted).job_id}" if accepted else "/api/v1/jobs"
