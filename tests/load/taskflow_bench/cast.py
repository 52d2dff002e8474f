"""The processes of a contestant during its turn: its API, its worker, and what else it has."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from taskflow_bench.arena import Arena, Place, fresh_place
from taskflow_bench.contestants import CONCURRENCY, TASKFLOW, Contestant
from taskflow_bench.load import Load
from taskflow_bench.work import Work
from taskflow_local.ports import choose_free
from taskflow_local.supervisor import MARKER
from taskflow_testing.services import Servers, ServiceProcess, Services

NEVER_REACHED = 10_000_000
"""What limits are set to: more than any run has."""

# Every feature is on; what refuses has limits that nobody reaches.
_TASKFLOW_SETTINGS: Mapping[str, object] = {
    "concurrency": CONCURRENCY,
    "unlimited_addresses": "none",
    "address_limit_requests": NEVER_REACHED,
    "tenant_limit_requests": NEVER_REACHED,
    "key_limit_requests": NEVER_REACHED,
}


@dataclass
class Cast:
    """Starts and stops them. Made by `on_stage`."""

    contestant: Contestant
    place: Place
    port: int
    folder: Path
    environment: dict[str, str]
    headers: dict[str, str]
    running: dict[str, ServiceProcess] = field(default_factory=dict)
    _started: int = 0

    @property
    def pids(self) -> dict[str, int]:
        """By their names, those that run."""
        return {name: process.pid for name, process in self.running.items()}

    def load(
        self,
        work: Work,
        *,
        connections: int,
        requests: int,
        seconds: float,
        rate: float | None = None,
    ) -> Load:
        """Submissions as this contestant takes them."""
        return Load(
            port=self.port,
            path=self.contestant.path,
            posts=work.posts,
            headers=self.headers,
            with_idempotency_keys=self.contestant.name == TASKFLOW,
            connections=connections,
            requests=requests,
            seconds=seconds,
            rate=rate,
        )

    async def start_all(self) -> None:
        """The worker first: TaskFlow's API refuses jobs of a type that no worker has named."""
        for name in self.contestant.others:
            self.start(name)
        await self.start("worker").wait_ready(self._worker_is_ready)
        api = self.start("api")

        async def is_ready() -> bool:
            return self.contestant.api_is_ready(self.port)

        await api.wait_ready(is_ready)

    def start(self, name: str) -> ServiceProcess:
        """Start one and wait for nothing; `worker-2` is one more worker."""
        contestant = self.contestant
        modules = {"api": contestant.api, "worker": contestant.worker, **contestant.others}
        self._started += 1
        module = modules[name.partition("-")[0]]
        process = ServiceProcess(
            f"{name} of {contestant.name}",
            [sys.executable, "-m", *(part.format(port=self.port) for part in module)],
            self.environment,
            self.folder / f"{self._started:02d}-{name}.log",
        )
        self.running[name] = process
        return process

    async def stop(self, name: str) -> None:
        """SIGTERM one, and wait for its end."""
        await self.running.pop(name).terminate()

    async def stop_all(self) -> None:
        """The API first, so that nothing arrives any more."""
        for name in sorted(self.running):
            await self.stop(name)

    async def _worker_is_ready(self) -> bool:
        connection = await asyncpg.connect(self.place.database_url)
        try:
            return bool(await connection.fetchval(self.contestant.worker_is_ready))
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def on_stage(
    arena: Arena, contestant: Contestant, name: str, settings: Mapping[str, object] | None = None
) -> AsyncIterator[Cast]:
    """All its processes, on a place of its own; none runs afterwards.

    `name` is that of the folder for logs; `settings` are TaskFlow's, on top of the usual ones.
    """
    folder = arena.folder / "log" / name
    folder.mkdir(parents=True)
    base = {**_own_environment(), "PYTHONUNBUFFERED": "1", MARKER: str(arena.folder)}
    async with fresh_place(arena, contestant, base) as place:
        (port,) = choose_free(1)
        environment, headers = base | place.environment(), {}
        if contestant.name == TASKFLOW:
            servers = Servers(place.database_url, place.amqp_url, place.redis_url, place.bucket)
            services = Services(
                servers,
                folder,
                folder,
                **{**_TASKFLOW_SETTINGS, **(settings or {})},
                log_spool_dir=folder / "spool",
            )
            environment = {**services.environment(api_port=port), **base}
            headers = {"X-API-Key": services.api_key}
        cast = Cast(contestant, place, port, folder, environment, headers)
        try:
            await cast.start_all()
            yield cast
            await cast.stop_all()
        finally:
            for process in cast.running.values():
                process.kill()


def _own_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("TASKFLOW_")}
