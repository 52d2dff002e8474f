"""The processes of a contestant during its turn: its API, its worker, and what else it has."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from taskflow_bench.arena import Arena, Place, fresh_place
from taskflow_bench.contestants import CONCURRENCY, TASKFLOW, Contestant
from taskflow_bench.load import Load
from taskflow_local.ports import choose_free
from taskflow_local.supervisor import MARKER
from taskflow_testing.services import Servers, ServiceProcess, Services

TEXT = "x" * 100
"""What every job says, and has to say back."""

_NEVER_REACHED = 10_000_000

# Every feature is on; what refuses has limits that nobody reaches.
_TASKFLOW_SETTINGS = {
    "concurrency": CONCURRENCY,
    "unlimited_addresses": "none",
    "address_limit_requests": _NEVER_REACHED,
    "tenant_limit_requests": _NEVER_REACHED,
    "key_limit_requests": _NEVER_REACHED,
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
        self, *, connections: int, requests: int, seconds: float, rate: float | None = None
    ) -> Load:
        """Submissions as this contestant takes them."""
        return Load(
            port=self.port,
            path=self.contestant.path,
            body=f'{{"type":"echo","payload":{{"text":"{TEXT}"}}}}',
            headers=self.headers,
            with_idempotency_keys=self.contestant.name == TASKFLOW,
            connections=connections,
            requests=requests,
            seconds=seconds,
            rate=rate,
        )

    async def start_all(self) -> None:
        """The worker first: TaskFlow's API refuses jobs of a type that no worker has named."""
        for name, module in self.contestant.others.items():
            self._launch(name, module)
        self.start_worker()
        await self.running["worker"].wait_ready(self._worker_is_ready)
        api = self._launch("api", self.contestant.api)

        async def is_ready() -> bool:
            return self.contestant.api_is_ready(self.port)

        await api.wait_ready(is_ready)

    def start_worker(self) -> None:
        """Start it and wait for nothing."""
        self._launch("worker", self.contestant.worker)

    async def stop(self, name: str) -> None:
        """SIGTERM one, and wait for its end."""
        await self.running.pop(name).terminate()

    async def stop_all(self) -> None:
        """The API first, so that nothing arrives any more."""
        for name in sorted(self.running):
            await self.stop(name)

    def _launch(self, name: str, module: Sequence[str]) -> ServiceProcess:
        self._started += 1
        command = [sys.executable, "-m", *(part.format(port=self.port) for part in module)]
        log = self.folder / f"{self._started:02d}-{name}.log"
        process = ServiceProcess(
            f"{name} of {self.contestant.name}", command, self.environment, log
        )
        self.running[name] = process
        return process

    async def _worker_is_ready(self) -> bool:
        connection = await asyncpg.connect(self.place.database_url)
        try:
            return bool(await connection.fetchval(self.contestant.worker_is_ready))
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def on_stage(arena: Arena, contestant: Contestant, round_: int) -> AsyncIterator[Cast]:
    """All its processes, on a place of its own; none runs afterwards."""
    folder = arena.folder / "log" / f"{round_}-{contestant.name}"
    folder.mkdir(parents=True)
    base = {**_own_environment(), "PYTHONUNBUFFERED": "1", MARKER: str(arena.folder)}
    async with fresh_place(arena, contestant, base) as place:
        (port,) = choose_free(1)
        environment, headers = base | place.environment(), {}
        if contestant.name == TASKFLOW:
            servers = Servers(place.database_url, place.amqp_url, place.redis_url, place.bucket)
            services = Services(
                servers, folder, folder, **_TASKFLOW_SETTINGS, log_spool_dir=folder / "spool"
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
