"""Whether the logs of jobs, as users read them, hold what the handlers wrote."""

import asyncio
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from taskflow_chaos import history
from taskflow_chaos.client import Client
from taskflow_chaos.cluster import Cluster
from taskflow_chaos.effects import read_effects

JSON_LINES = "application/x-ndjson"
_READERS = 8
_PAUSE_SECONDS = 1.0
_LOST = re.compile(r"… (\d+) lines \(\d+ bytes\) lost: ")

Attempt = tuple[UUID, int]


@dataclass(frozen=True)
class AttemptLog:
    """Of one attempt: how many lines the handler wrote that are there, and how many the log itself
    says are not."""

    lines: int = 0
    said_lost: int = 0


def log_path(job_id: UUID) -> str:
    """Where a job's log is read."""
    return f"/api/v1/logs/{job_id}"


async def expected(
    cluster: Cluster, taken_by_a_kill: Callable[[float], float]
) -> tuple[Counter[Attempt], Counter[Attempt]]:
    """How often each attempt began, and so wrote its first line: twice where one was handed back.

    Apart from them, those whose line a kill of their worker may have taken: it takes what was
    written `taken_by_a_kill` seconds before it, by the moment (since 1970).
    """
    died = history.deaths(cluster.consumers)
    connection = await cluster.connect()
    try:
        attempts = await history.recorded_attempts(connection)
    finally:
        await connection.close()
    # A handler may have run in a process of its own; its lines are with the worker all the same.
    workers = {(each.job_id, each.number): each.worker_pid for each in attempts}
    written: Counter[Attempt] = Counter()
    excused: Counter[Attempt] = Counter()
    for effect in await asyncio.to_thread(read_effects, cluster.effects_folder):
        attempt = (effect.job_id, effect.attempt)
        if effect.what != "began":
            continue
        died_at = died.get(workers.get(attempt) or effect.pid, math.inf)
        # It may have died before: its children, which log by way of it, take a moment to follow.
        is_taken = died_at < effect.at + taken_by_a_kill(effect.at)
        (excused if is_taken else written)[attempt] += 1
    return written, excused


def count_lines(body: bytes, job_id: UUID, message: str) -> dict[Attempt, AttemptLog]:
    """What a job's log (as JSON lines) holds of the lines with this message, by attempt."""
    lines: Counter[Attempt] = Counter()
    lost: Counter[Attempt] = Counter()
    for line in map(json.loads, body.splitlines()):
        attempt = (job_id, line["attempt"])
        if line["message"] == message:
            lines[attempt] += 1
        elif line["logger"] == "taskflow" and (said := _LOST.match(line["message"])):
            lost[attempt] += int(said[1])
    return {each: AttemptLog(lines[each], lost[each]) for each in lines.keys() | lost.keys()}


class LogAudit:
    """Reads logs until nothing is missing in them any more."""

    def __init__(self, client: Client, message: str) -> None:
        """`message` is that of the handlers' own lines."""
        self._client = client
        self._message = message

    async def wait_complete(
        self, expected: Counter[Attempt], limit_seconds: float
    ) -> tuple[Sequence[Attempt], float]:
        """Wait until each attempt has as many lines as expected; which have not, and when all had.

        The moment is that of the last look, in seconds since 1970.
        """
        deadline = time.monotonic() + limit_seconds
        missing = list(expected)
        while True:
            at = time.time()
            missing = await self.missing(Counter({each: expected[each] for each in missing}))
            if not missing or time.monotonic() > deadline:
                return missing, at
            await asyncio.sleep(_PAUSE_SECONDS)

    async def missing(self, expected: Counter[Attempt]) -> list[Attempt]:
        """Which attempts have fewer lines than expected, now."""
        found = await self.read({job_id for job_id, _ in expected})
        return [each for each in expected if found.get(each, AttemptLog()).lines < expected[each]]

    async def read(self, job_ids: Collection[UUID]) -> dict[Attempt, AttemptLog]:
        """What the logs of these jobs hold now, as the APIs answer."""
        slots = asyncio.Semaphore(_READERS)

        async def read_one(job_id: UUID) -> dict[Attempt, AttemptLog]:
            async with slots:
                answer = await self._client.get(log_path(job_id), accept=JSON_LINES)
            return count_lines(answer.content, job_id, self._message)

        found: dict[Attempt, AttemptLog] = {}
        for each in await asyncio.gather(*map(read_one, job_ids)):
            found |= each
        return found
