"""Jobs accepted by batches of several sizes, while no worker runs."""

import json
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import uuid4

import asyncpg

from taskflow_bench.arena import Arena
from taskflow_bench.cast import Cast, on_stage
from taskflow_bench.errors import BenchBroke
from taskflow_bench.load import Load, Post
from taskflow_bench.measuring import Measuring
from taskflow_bench.more.crew import Crew
from taskflow_bench.more.experiment import OURS, Extent
from taskflow_bench.more.findings import Cell, Findings, Table
from taskflow_bench.work import ECHO

_JOBS = 60_000
_PATH = "/api/v1/jobs/batch"
_HEAD = (
    "jobs a batch", "connections", "jobs/s", "ms a POST, mean",
    "CPU us a job: API", "PostgreSQL", "RabbitMQ", "generator's cores",
)  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """How batches are sent, over so many connections at once."""

    jobs: int
    connections: int
    added: str = ""
    atomic: bool = False
    with_keys: bool = False
    with_unique_keys: bool = False
    with_parent: bool = False

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{self.jobs:,}{self.added}"

    def load(self, cast: Cast, jobs: int, seconds: float, parent: str = "") -> Load:
        """So many jobs in all, of the usual kind; `parent` is the id of one that they wait for."""
        requests = max(self.connections, jobs // self.jobs)
        sent = cast.load(ECHO, connections=self.connections, requests=requests, seconds=seconds)
        return sent.model_copy(
            update={
                "path": _PATH,
                "posts": [
                    Post(body=self._batch(parent))
                    for _ in range(requests if self.with_unique_keys else 1)
                ],
                "with_idempotency_keys": self.with_keys,
            }
        )

    def _batch(self, parent: str) -> str:
        (post,) = ECHO.posts
        job = json.loads(post.body) | ({"depends_on": [parent]} if self.with_parent else {})
        jobs = [job] * self.jobs
        if self.with_unique_keys:
            jobs = [job | {"unique_key": str(uuid4())} for job in jobs]
        return json.dumps({"jobs": jobs, "atomic": self.atomic}, separators=(",", ":"))


_KINDS = (
    _Kind(10, connections=32),
    _Kind(100, connections=8),
    _Kind(1_000, connections=4),
    _Kind(1_000, connections=4, added=", atomic", atomic=True),
    _Kind(1_000, connections=4, added=", with an idempotency key", with_keys=True),
    _Kind(1_000, connections=4, added=", each with a `unique_key`", with_unique_keys=True),
    _Kind(1_000, connections=4, added=", which wait for one job", with_parent=True),
)


async def run(arena: Arena, extent: Extent) -> Findings:
    """Each kind on a stage of its own."""
    rows = [await _measure(arena, extent, number, kind) for number, kind in enumerate(_KINDS)]
    return Findings(tables=[Table(head=_HEAD, rows=rows)])


async def _measure(arena: Arena, extent: Extent, number: int, kind: _Kind) -> list[Cell]:
    effort = extent.effort(_JOBS)
    async with on_stage(arena, OURS, f"batches-{number}") as cast:
        measuring = Measuring(arena, cast, effort)
        await measuring.warm_up()
        await Crew(cast).stop()
        await measuring.send(_Kind(kind.jobs, kind.connections).load(cast, 0, effort.seconds))
        parent = await _ask(cast, "SELECT id::text FROM jobs WHERE state = 'queued' LIMIT 1")
        before, use = await _count(cast), measuring.use()
        sent = await measuring.send(kind.load(cast, effort.jobs, effort.seconds, parent))
        used = use.so_far().cpu_seconds
        jobs = await _count(cast) - before
    if jobs != sent.accepted * kind.jobs:
        raise BenchBroke(f"{sent.accepted} batches of {kind.jobs} left {jobs} jobs")
    return [
        kind.title,
        str(kind.connections),
        jobs / sent.seconds,
        1_000 * kind.connections * sent.seconds / sent.accepted,
        *(1e6 * used[name] / jobs for name in ("api", "postgres", "rabbitmq")),
        sent.generator_cores,
    ]


async def _count(cast: Cast) -> int:
    return int(await _ask(cast, "SELECT count(*) FROM jobs"))


async def _ask(cast: Cast, question: LiteralString) -> Any:
    connection = await asyncpg.connect(cast.place.database_url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()
