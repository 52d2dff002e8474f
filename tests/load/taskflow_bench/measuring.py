"""The phases of a measurement, each with its rate and what it used."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import asyncpg

from taskflow_bench import gauges
from taskflow_bench.arena import Arena
from taskflow_bench.cast import Cast
from taskflow_bench.errors import BenchBroke, GeneratorFailed
from taskflow_bench.load import Load, Sent
from taskflow_bench.report import Phase, Used
from taskflow_bench.work import ECHO, Work

_MILLISECONDS = 1_000
_LOOK_SECONDS = 1.0
_WARM_UP_JOBS = 200
_STALLED_SECONDS = 60.0
_UNCOUNTED = 10


@dataclass(frozen=True)
class Effort:
    """How much of everything; a phase of posts ends with `jobs` or after `seconds`."""

    jobs: int = 20_000
    seconds: float = 15.0
    connections: int = 64
    rate: float = 100.0


class Measuring:
    """The phases, each of which leaves nothing to do behind."""

    def __init__(self, arena: Arena, cast: Cast, effort: Effort, work: Work = ECHO) -> None:
        self._arena = arena
        self._cast = cast
        self._effort = effort
        self._work = work

    async def warm_up(self) -> None:
        """Connections, statements and caches are there from now on."""
        load = self._load(requests=min(_WARM_UP_JOBS, self._effort.jobs))
        sent = await self.send(load)
        await self.until_done(sent.began, sent.accepted)

    async def accept(self) -> tuple[Sent, Phase]:
        """Posts while no worker runs."""
        use = self.use()
        sent = await self.send(self._load())
        return sent, Phase(
            jobs=sent.accepted,
            seconds=sent.seconds,
            used=use.so_far(),
            generator_cores=sent.generator_cores,
        )

    async def drain(self, sent: Sent) -> Phase:
        """What was accepted, done by workers that start now; their start is not counted."""
        use = self.use()
        await self.until_done(sent.began, sent.accepted)
        used = use.so_far()
        return counted((await self.ends(sent.began)).values(), used)

    async def both(self) -> Phase:
        """Posts while a worker works, up to the last end."""
        use = self.use()
        sent = await self.send(self._load())
        done = await self.until_done(sent.began, sent.accepted)
        return Phase(
            jobs=done.count,
            seconds=done.last - sent.began,
            used=use.so_far(),
            generator_cores=sent.generator_cores,
        )

    async def latency(self, rate: float | None = None) -> tuple[Phase, list[float]]:
        """Posts at an even rate; milliseconds from when each was due to its end, by size."""
        use = self.use()
        sent = await self.send(self._load(rate=rate or self._effort.rate))
        done = await self.until_done(sent.began, sent.accepted)
        ended_at = await self.ends(sent.began)
        taken = sorted(
            (ended_at[job] - due_at) * _MILLISECONDS for job, due_at in sent.due_at.items()
        )
        phase = Phase(
            jobs=done.count,
            seconds=done.last - sent.began,
            used=use.so_far(),
            generator_cores=sent.generator_cores,
        )
        return phase, [round(each, 2) for each in taken]

    def use(self) -> "Use":
        """CPU from now on, of the cast and of the servers."""
        return Use(self._cast.pids | {each.name: each.pid for each in self._arena.servers.all()})

    async def send(self, load: Load) -> Sent:
        """Send a load, all of which has to be accepted."""
        try:
            sent = await send(load)
        except GeneratorFailed as error:
            raise self._broke(str(error)) from None
        refused = {status: n for status, n in sent.statuses.items() if status // 100 != 2}
        if refused or not sent.accepted:
            raise self._broke(f"refused {refused or 'everything'}: {sent.first_refusal}")
        return sent

    async def until_done(self, began: float, count: int, *, or_more: bool = False) -> "Done":
        """Wait until `count` jobs have ended since, each with the text that it ought to have.

        Raises:
            BenchBroke: there are more, unless `or_more`; one is wrong; or no more come.
        """
        connection = await asyncpg.connect(self._cast.place.database_url)
        try:
            before, moved_at = -1, time.monotonic()
            while True:
                done = await _look(
                    connection, self._cast.contestant.finished, self._work.text, began
                )
                if done.wrong or (done.count > count and not or_more):
                    raise self._broke(f"{done.count} of {count} jobs done, {done.wrong} wrong")
                if done.count >= count:
                    return done
                if done.count > before:
                    before, moved_at = done.count, time.monotonic()
                if time.monotonic() - moved_at > _STALLED_SECONDS:
                    raise self._broke(f"{done.count} of {count} jobs done, and no more come")
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await connection.close()

    async def ends(self, began: float) -> dict[str, float]:
        """When each job ended that has ended since, by its id."""
        connection = await asyncpg.connect(self._cast.place.database_url)
        try:
            rows = await connection.fetch(
                f"""
                SELECT id, extract(epoch FROM finished_at)::float8 AS ended
                FROM ({self._cast.contestant.finished}) AS finished
                WHERE finished_at >= to_timestamp($1)
                """,
                began,
            )
        finally:
            await connection.close()
        return {row["id"]: row["ended"] for row in rows}

    def _load(self, requests: int | None = None, rate: float | None = None) -> Load:
        effort = self._effort
        return self._cast.load(
            self._work,
            connections=effort.connections,
            requests=requests or effort.jobs,
            seconds=effort.seconds,
            rate=rate,
        )

    def _broke(self, what: str) -> BenchBroke:
        return BenchBroke(f"{self._cast.contestant.name}: {what}; its logs: {self._cast.folder}")


@dataclass(frozen=True)
class Done:
    """How many jobs have ended, and the last of it (seconds since 1970)."""

    count: int
    wrong: int
    last: float


class Use:
    """CPU from now on, by process."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._before = gauges.cpu_seconds(roots)
        self._began = time.monotonic()

    def so_far(self) -> Used:
        """What each of them has used since."""
        now = gauges.cpu_seconds(self._roots)
        return Used(
            seconds=time.monotonic() - self._began,
            cpu_seconds={name: round(now[name] - self._before[name], 2) for name in now},
        )


def counted(ends: Iterable[float], used: Used) -> Phase:
    """The rate of these ends, from when a tenth of them has come.

    Who works in batches ends many jobs at the moment when the clock starts.
    """
    in_order = sorted(ends)
    tenth = len(in_order) // _UNCOUNTED
    seconds = in_order[-1] - in_order[tenth]
    return Phase(jobs=len(in_order) - 1 - tenth, seconds=seconds, used=used)


async def send(load: Load) -> Sent:
    """Have a load generator send a load.

    Raises:
        GeneratorFailed: it did not get an answer to each POST.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "taskflow_bench.generator",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate(load.model_dump_json().encode())
    if process.returncode != 0:
        raise GeneratorFailed(f"the load generator ended: {errors.decode(errors='replace')}")
    return Sent.model_validate_json(output)


async def _look(
    connection: asyncpg.Connection, finished: str, text: str | None, began: float
) -> Done:
    row = await connection.fetchrow(
        f"""
        SELECT count(*) AS count, count(*) FILTER (WHERE text IS DISTINCT FROM $2::text) AS wrong,
            extract(epoch FROM max(finished_at))::float8 AS last
        FROM ({finished}) AS finished WHERE finished_at >= to_timestamp($1)
        """,
        began,
        text,
    )
    assert row is not None
    return Done(row["count"], row["wrong"], row["last"] or began)
