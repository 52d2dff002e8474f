"""A contestant's turn: accepting alone, draining alone, both at once, and how long a job takes."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from taskflow_bench import gauges
from taskflow_bench.arena import Arena
from taskflow_bench.cast import TEXT, Cast, on_stage
from taskflow_bench.contestants import Contestant
from taskflow_bench.errors import BenchBroke, GeneratorFailed
from taskflow_bench.load import Load, Sent
from taskflow_bench.report import Phase, Turn, Used, figure

_MILLISECONDS = 1_000
_LOOK_SECONDS = 1.0
_WARM_UP_JOBS = 200
_STALLED_SECONDS = 60.0


@dataclass(frozen=True)
class Effort:
    """How much of everything; a phase of posts ends with `jobs` or after `seconds`."""

    jobs: int = 20_000
    seconds: float = 15.0
    connections: int = 64
    rate: float = 100.0


async def play(arena: Arena, contestant: Contestant, round_: int, effort: Effort) -> Turn:
    """Measure one contestant once.

    Raises:
        BenchBroke: it refuses, loses or garbles a job, or stands still.
    """
    async with on_stage(arena, contestant, round_) as cast:
        measuring = _Measuring(arena, cast, effort)
        memory, busy_memory = gauges.Memory(), gauges.Memory()
        await measuring.warm_up()
        await cast.stop("worker")
        async with memory.watching(cast.pids):
            sent, accepted = await measuring.accept()
        cast.start_worker()
        async with memory.watching(cast.pids):
            drained = await measuring.drain(sent)
        async with busy_memory.watching(cast.pids):
            both = await measuring.both()
        async with memory.watching(cast.pids):
            latency, milliseconds = await measuring.latency()
        return Turn(
            contestant=contestant.name,
            round=round_,
            accepted=accepted,
            drained=drained,
            both=both,
            latency=latency,
            post_to_completed_ms=milliseconds,
            memory_mib={name: figure(looks).median for name, looks in busy_memory.looks.items()},
            peak_memory_mib={
                name: max(looks + memory.looks.get(name, []))
                for name, looks in busy_memory.looks.items()
            },
        )


class _Measuring:
    """The phases, each of which leaves nothing to do behind."""

    def __init__(self, arena: Arena, cast: Cast, effort: Effort) -> None:
        self._arena = arena
        self._cast = cast
        self._effort = effort

    async def warm_up(self) -> None:
        """Connections, statements and caches are there from now on."""
        load = self._load(requests=min(_WARM_UP_JOBS, self._effort.jobs))
        sent = await self._send(load)
        await self._until_done(sent.began, sent.accepted)

    async def accept(self) -> tuple[Sent, Phase]:
        """Posts while no worker runs."""
        use = _Use(self._roots)
        sent = await self._send(self._load())
        return sent, Phase(
            jobs=sent.accepted,
            seconds=sent.seconds,
            used=use.so_far(),
            generator_cores=sent.generator_cores,
        )

    async def drain(self, sent: Sent) -> Phase:
        """What was accepted, done by a worker that starts now.

        Its start is not counted, and of the jobs not the first tenth: who works in batches ends
        many of them at the moment when the clock starts.
        """
        use = _Use(self._roots)
        await self._until_done(sent.began, sent.accepted)
        used = use.so_far()
        ends = sorted((await self._ends(sent.began)).values())
        tenth = len(ends) // 10
        return Phase(jobs=len(ends) - 1 - tenth, seconds=ends[-1] - ends[tenth], used=used)

    async def both(self) -> Phase:
        """Posts while a worker works, up to the last end."""
        use = _Use(self._roots)
        sent = await self._send(self._load())
        done = await self._until_done(sent.began, sent.accepted)
        return Phase(
            jobs=done.count,
            seconds=done.last - sent.began,
            used=use.so_far(),
            generator_cores=sent.generator_cores,
        )

    async def latency(self) -> tuple[Phase, list[float]]:
        """Posts at an even rate; milliseconds from when each was due to its end, by size."""
        use = _Use(self._roots)
        sent = await self._send(self._load(rate=self._effort.rate))
        done = await self._until_done(sent.began, sent.accepted)
        ended_at = await self._ends(sent.began)
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

    def _load(self, requests: int | None = None, rate: float | None = None) -> Load:
        effort = self._effort
        return self._cast.load(
            connections=effort.connections,
            requests=requests or effort.jobs,
            seconds=effort.seconds,
            rate=rate,
        )

    async def _send(self, load: Load) -> Sent:
        try:
            sent = await send(load)
        except GeneratorFailed as error:
            raise self._broke(str(error)) from None
        refused = {status: n for status, n in sent.statuses.items() if status // 100 != 2}
        if refused or not sent.accepted:
            raise self._broke(f"refused {refused or 'everything'}: {sent.first_refusal}")
        return sent

    async def _until_done(self, began: float, count: int) -> "_Done":
        """Wait until `count` jobs have ended since; each with the text that it was given."""
        connection = await asyncpg.connect(self._cast.place.database_url)
        try:
            before, moved_at = -1, time.monotonic()
            while True:
                done = await _look(connection, self._cast.contestant.finished, began)
                if done.wrong or done.count > count:
                    raise self._broke(f"{done.count} of {count} jobs done, {done.wrong} wrong")
                if done.count == count:
                    return done
                if done.count > before:
                    before, moved_at = done.count, time.monotonic()
                if time.monotonic() - moved_at > _STALLED_SECONDS:
                    raise self._broke(f"{done.count} of {count} jobs done, and no more come")
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await connection.close()

    async def _ends(self, began: float) -> dict[str, float]:
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

    @property
    def _roots(self) -> Mapping[str, int]:
        return self._cast.pids | {each.name: each.pid for each in self._arena.servers.all()}

    def _broke(self, what: str) -> BenchBroke:
        return BenchBroke(f"{self._cast.contestant.name}: {what}; its logs: {self._cast.folder}")


@dataclass(frozen=True)
class _Done:
    """How many jobs have ended, and the last of it (seconds since 1970)."""

    count: int
    wrong: int
    last: float


class _Use:
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


async def _look(connection: asyncpg.Connection, finished: str, began: float) -> _Done:
    row = await connection.fetchrow(
        f"""
        SELECT count(*) AS count, count(*) FILTER (WHERE text IS DISTINCT FROM $2) AS wrong,
            extract(epoch FROM max(finished_at))::float8 AS last
        FROM ({finished}) AS finished WHERE finished_at >= to_timestamp($1)
        """,
        began,
        TEXT,
    )
    assert row is not None
    return _Done(row["count"], row["wrong"], row["last"] or began)
