"""C13: Redis is killed, then stands still, then is emptied again and again.

Quiet stretches of the same run, one before each fault and none of them its first, are what its
submissions and reads are compared with. No job kills its worker here: the start of a consumer takes
a core for a second, and how many of these fall into a stretch would decide about its p99.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from taskflow_chaos.reading import Readings, reading, some_job
from taskflow_chaos.result import percentile
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import Mix, PlannedJob

READS_PER_SECOND = 20.0
HEALTH_PER_SECOND = 1.0
FLUSH_SECONDS = 1.0
SEEN_SECONDS = 5.0
QUIET = "quiet"
MOST_TIMES_SLOWER = 2.0
_MILLISECONDS = 1_000


@dataclass(frozen=True)
class Stretch:
    """What Redis suffered from `began` to `ended` (since 1970)."""

    what: str
    began: float
    ended: float

    def covers(self, moment: float) -> bool:
        """Whether it was then."""
        return self.began <= moment < self.ended


async def play(stage: Stage) -> None:
    """A stretch of load for each fault, and a quiet one before it."""
    redis = stage.cluster.redis
    warm_up, *others = stage.parts(7)
    parts = iter(others)
    stretches: list[Stretch] = []
    async with (
        reading(stage.cluster, lambda: some_job(stage), READS_PER_SECOND) as readings,
        reading(stage.cluster, lambda: "/readyz", HEALTH_PER_SECOND) as ready,
    ):
        await _load(stage, "warming up", warm_up)
        stretches.append(await _load(stage, QUIET, next(parts)))
        await redis.kill()
        stage.fault("Redis kill -9")
        stretches.append(await _load(stage, "killed", next(parts), seen_as="down"))
        await redis.start()
        stretches.append(await _load(stage, QUIET, next(parts)))
        redis.freeze()
        stage.fault("Redis SIGSTOP")
        stretches.append(await _load(stage, "frozen", next(parts), seen_as="down"))
        redis.thaw()
        stretches.append(await _load(stage, QUIET, next(parts)))
        async with _flushed(stage):
            stretches.append(await _load(stage, "flushed", next(parts)))
        await stage.all_ended()
    _require_no_refusal(stage, readings, ready)
    _require_as_fast(stage, stretches, readings)


async def _load(
    stage: Stage, what: str, plan: Sequence[PlannedJob], seen_as: str = "ok"
) -> Stretch:
    """Submit this part; the APIs must come to see Redis as it is."""
    began = time.time()
    async with stage.submissions(plan=plan):
        seen = ""
        while seen != seen_as and time.time() < began + SEEN_SECONDS:
            health = (await stage.client.get("/api/v1/health")).json()
            seen = health["dependencies"]["redis"]["status"]
        stage.require(seen == seen_as, f"{what}: the APIs call Redis {seen}, not {seen_as}")
    return Stretch(what, began, time.time())


@contextlib.asynccontextmanager
async def _flushed(stage: Stage) -> AsyncIterator[None]:
    """Empty it again and again during the block."""

    async def flush() -> None:
        async with Redis.from_url(stage.cluster.redis.url) as client:
            while True:
                await client.flushall()
                stage.fault("Redis FLUSHALL")
                await asyncio.sleep(FLUSH_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        flushing = tasks.create_task(flush())
        yield
        flushing.cancel()


def _require_no_refusal(stage: Stage, *read: Readings) -> None:
    stage.require_no_refusal()
    for readings in read:
        stage.client.complaints.extend(readings.complaints)
        statuses = readings.statuses
        stage.require(set(statuses) == {"200"}, f"reads did not go on: {dict(statuses)}")


def _require_as_fast(stage: Stage, stretches: Sequence[Stretch], readings: Readings) -> None:
    submitted = [(each.at - each.try_seconds, each.try_seconds) for each in stage.client.accepted]
    read = [(each.at, each.seconds) for each in readings.answers]
    for kind, times in (("submit", submitted), ("read", read)):
        usual = _p99_ms(times, stretches, QUIET)
        stage.figures[f"{kind}_p99_ms_{QUIET}"] = usual
        for what in dict.fromkeys(each.what for each in stretches if each.what != QUIET):
            p99 = _p99_ms(times, stretches, what)
            stage.figures[f"{kind}_p99_ms_{what}"] = p99
            stage.require(
                p99 <= MOST_TIMES_SLOWER * usual,
                f"{kind} p99 was {p99} ms while Redis was {what}, {usual} ms otherwise",
            )


def _p99_ms(times: Sequence[tuple[float, float]], stretches: Sequence[Stretch], what: str) -> float:
    """Of the requests (when, seconds) that began in the stretches of this kind."""
    within = [each for each in stretches if each.what == what]
    taken = [seconds for at, seconds in times if any(each.covers(at) for each in within)]
    return round((percentile(taken, 0.99) or 0.0) * _MILLISECONDS, 1)


SCENARIO = Scenario(
    id="C13",
    title="Redis killed, frozen, flushed",
    fault="Redis is killed (kill -9), stands still (SIGSTOP), is emptied every second",
    asserts="no 5xx; p99 of submissions and reads at most twice that of the same run without",
    jobs=5_000,
    mix=Mix(kill_worker=0.0),
    play=play,
)
