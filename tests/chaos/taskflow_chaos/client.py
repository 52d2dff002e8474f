"""The suite's client: submits, repeats what failed with the same key, and logs every answer."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx

from taskflow_chaos.workload import PlannedJob

TRY_SECONDS = 20.0
"""How long the client waits for one answer. It is longer than any limit of the API's own."""
_CONNECTIONS = 200
# Well below the API's own: else a request may go out on a connection that is just being closed.
_KEEP_ALIVE_SECONDS = 1.0
_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_TEXT_SHOWN = 300
_ENDED = frozenset({"completed", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Accepted:
    """A 202 as the client saw it.

    `api`: the address of the one that gave it; `at`: when it came, since 1970; `try_seconds`: what
    that request took; `waited_seconds`: the time since the first try.
    """

    job_id: UUID
    key: str
    api: str
    at: float
    try_seconds: float
    waited_seconds: float


@dataclass(frozen=True)
class Answer:
    """What a try came to: a status such as `202`, or `no connection` or `time-out`, and when.

    `was_sent`: whether the request may have gone out; a connection that was refused carried none.
    `error`: what went wrong with a connection, in its own words.
    """

    status: str
    at: float
    was_sent: bool = True
    error: str = ""


@dataclass(frozen=True)
class CancelAnswer:
    """The answer to a cancel: 200 (it is cancelled), 202 (it is asked to stop), 409 (too late).

    `at`: when it came, since 1970.
    """

    job_id: UUID
    status_code: int
    at: float


class Client:
    """A user of the APIs, who turns to the next one with every try; an async context manager."""

    def __init__(self, urls: Sequence[str], api_key: str, seed: int = 0) -> None:
        """`seed`: of the pauses between the tries, which are never quite alike."""
        self.accepted: list[Accepted] = []
        self.answers: list[Answer] = []
        """To every try of a submission or a cancel, in their order."""
        self.cancels: list[CancelAnswer] = []
        """To every cancel that was answered."""
        self.complaints: list[str] = []
        """Answers that no fault excuses."""
        self._apis = [
            httpx.AsyncClient(
                base_url=url,
                headers={"X-API-Key": api_key},
                timeout=httpx.Timeout(TRY_SECONDS, pool=None),
                limits=httpx.Limits(
                    max_connections=_CONNECTIONS, keepalive_expiry=_KEEP_ALIVE_SECONDS
                ),
                trust_env=False,
            )
            for url in urls
        ]
        self._turn = itertools.count()
        self._random = random.Random(seed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for api in self._apis:
            await api.aclose()

    @property
    def statuses(self) -> Counter[str]:
        """How often each status was answered."""
        return Counter(answer.status for answer in self.answers)

    async def submit_all(self, jobs: Sequence[PlannedJob], per_second: float) -> None:
        """Submit these at an even rate, whether the APIs answer or not; returns with the last 202.

        Those that are to be cancelled are cancelled on the way.
        """
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number, job in enumerate(jobs):
                await asyncio.sleep(began + number / per_second - time.monotonic())
                tasks.create_task(self._see_through(job))

    async def submit(self, job: PlannedJob) -> Accepted:
        """Submit one job, again and again until there is a 202."""
        began = time.monotonic()
        for tries, api in enumerate(self._next_apis()):
            tried = time.monotonic()
            answer = await self._try(
                api, "/api/v1/jobs", json=job.body(), headers={"Idempotency-Key": job.key}
            )
            if answer is not None and answer.status_code == httpx.codes.ACCEPTED:
                now = time.monotonic()
                accepted = Accepted(
                    UUID(answer.json()["id"]),
                    job.key,
                    str(api.base_url),
                    time.time(),
                    now - tried,
                    now - began,
                )
                self.accepted.append(accepted)
                return accepted
            self._complain(answer)
            await asyncio.sleep(pause_seconds(tries, answer, self._random))
        raise AssertionError("unreachable: the APIs take turns for ever")

    async def cancel(self, job_id: UUID) -> None:
        """Ask for a job's end, again and again until there is an answer; that may be "too late"."""
        for tries, api in enumerate(self._next_apis()):
            answer = await self._try(api, f"/api/v1/jobs/{job_id}/cancel")
            if answer is not None and answer.status_code in {
                httpx.codes.OK,
                httpx.codes.ACCEPTED,
                httpx.codes.CONFLICT,
            }:
                self.cancels.append(CancelAnswer(job_id, answer.status_code, time.time()))
                return
            self._complain(answer)
            await asyncio.sleep(pause_seconds(tries, answer, self._random))

    async def get(self, path: str, accept: str = "*/*") -> httpx.Response:
        """An answer to a GET, from whichever API gives a 200; what fails is no fault of theirs."""
        for tries, api in enumerate(self._next_apis()):
            try:
                answer = await api.get(path, headers={"Accept": accept})
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == httpx.codes.OK:
                return answer
            await asyncio.sleep(pause_seconds(tries, answer, self._random))
        raise AssertionError("unreachable: the APIs take turns for ever")

    async def count_by_state(self) -> dict[str, int]:
        """How many jobs are in each state that has some."""
        counts = (await self.get("/api/v1/jobs/stats")).json()["by_state"]
        return {state: count for state, count in counts.items() if count}

    async def wait_all_ended(self, pause: float = 0.5) -> dict[str, int]:
        """Wait until every job is in a terminal state; how many are in each."""
        while True:
            counts = await self.count_by_state()
            if _ENDED.issuperset(counts):
                return counts
            await asyncio.sleep(pause)

    async def _see_through(self, job: PlannedJob) -> None:
        if job.is_sent_twice:
            accepted, _ = await asyncio.gather(self.submit(job), self.submit(job))
        else:
            accepted = await self.submit(job)
        if job.cancel_after_seconds is not None:
            await asyncio.sleep(job.cancel_after_seconds)
            await self.cancel(accepted.job_id)

    async def _try(
        self,
        api: httpx.AsyncClient,
        path: str,
        *,
        json: object = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response | None:
        """One POST; None when no answer came."""
        try:
            answer = await api.post(path, json=json, headers=headers)
        except httpx.TimeoutException:
            self._note("time-out")
            self.complaints.append(f"no answer to POST {path} within {TRY_SECONDS:.0f} s")
            return None
        except httpx.TransportError as error:
            was_sent = not isinstance(error, httpx.ConnectError)
            self._note("no connection", was_sent=was_sent, error=repr(error))
            return None
        self._note(str(answer.status_code))
        return answer

    def _note(self, status: str, *, was_sent: bool = True, error: str = "") -> None:
        self.answers.append(Answer(status, time.time(), was_sent, error))

    def _complain(self, answer: httpx.Response | None) -> None:
        if answer is None:
            return
        what = f"{answer.request.method} {answer.request.url.path}: {answer.status_code}"
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            self.complaints.append(f"{what}: {answer.text[:_TEXT_SHOWN]}")
        elif "Retry-After" not in answer.headers:
            self.complaints.append(f"{what} without Retry-After: {answer.text[:_TEXT_SHOWN]}")

    def _next_apis(self) -> Iterator[httpx.AsyncClient]:
        while True:
            yield self._apis[next(self._turn) % len(self._apis)]


def pause_seconds(tries: int, answer: httpx.Response | None, rng: random.Random) -> float:
    """What is between two tries: more after each, and as much as the API asks for, in reason.

    By chance up to half as much more or less. Tries at an even pace may keep step with a fault that
    comes at an even pace, and find each API dead for as long as the fault goes on.
    """
    asked = None if answer is None else answer.headers.get("Retry-After")
    if asked is not None and asked.isdigit():
        seconds = float(asked)
    else:
        seconds = _PAUSE_SECONDS * 2.0**tries
    return min(seconds, _LONGEST_PAUSE_SECONDS) * rng.uniform(0.5, 1.5)
