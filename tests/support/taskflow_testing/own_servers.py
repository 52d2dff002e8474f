"""The servers of a run: each started, killed, frozen and started again by hand."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taskflow_local.component import Component, Program
from taskflow_local.ports import LOOPBACK, accepts_connections, choose_free
from taskflow_local.postgres import Postgres
from taskflow_local.rabbitmq import RabbitMQ
from taskflow_local.redis import Redis
from taskflow_local.s3 import S3
from taskflow_local.supervisor import MARKER
from taskflow_testing import processes

_USER = "taskflow"
_POLL_SECONDS = 0.05


class ServerBroke(Exception):
    """A server ended or did not become ready; the text says where its log is."""


@dataclass
class Outage:
    """When a server did not answer, in seconds since 1970; `ended` is None while it lasts."""

    began: float
    ended: float | None = None

    def covers(self, moment: float) -> bool:
        """Whether the server was away then."""
        return self.began <= moment and (self.ended is None or moment < self.ended)


class Server:
    """One server; nothing starts it again but `start`. Every fault is kept in `outages`."""

    def __init__(self, component: Component, url: str, folder: Path) -> None:
        """`folder` is the run's, by which its processes are known and where logs go."""
        self.component = component
        self.url = url
        self.outages: list[Outage] = []
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._is_prepared = False

    @property
    def name(self) -> str:
        """postgres, rabbitmq, redis or s3."""
        return self.component.name

    @property
    def log_path(self) -> Path:
        """What it wrote."""
        return self._log_path(self.name)

    @property
    def pid(self) -> int:
        """Its main process: for PostgreSQL the postmaster."""
        return self._main.pid

    @property
    def is_away(self) -> bool:
        """Whether a fault of ours lasts."""
        return bool(self.outages) and self.outages[-1].ended is None

    def pids(self) -> list[int]:
        """All its processes, the main one first; RabbitMQ's name server epmd is none of them."""
        return processes.tree(self.pid)

    async def start(self) -> float:
        """Start what of it does not run, and wait until it is ready; the seconds that took.

        Raises:
            ServerBroke: it ends, or is not ready in time.
        """
        began = time.monotonic()
        if not self._is_prepared:
            await asyncio.to_thread(self.component.prepare)
            self._is_prepared = True
        for program in self.component.programs():
            running = self._running.get(program.name)
            if running is None or running.poll() is not None:
                self._running[program.name] = self._launch(program)
                await self._wait_listening(program)
        await self._wait_ready()
        self._end_outage()
        return time.monotonic() - began

    async def kill(self) -> None:
        """SIGKILL its main process and all that this has started, and wait until they are gone."""
        self._begin_outage()
        pids = self.pids()
        processes.signal_all(pids, signal.SIGKILL)
        await self._reap(pids)

    async def end(self, number: signal.Signals, seconds: float = 60.0) -> None:
        """Send its main process a signal that ends it, and wait until all of it is gone.

        SIGQUIT is PostgreSQL's immediate shutdown, SIGINT its fast one; SIGTERM is RabbitMQ's.

        Raises:
            StillAlive: it takes longer than `seconds`.
        """
        self._begin_outage()
        pids = self.pids()
        processes.signal_all([self.pid], number)
        await self._reap(pids, seconds)

    def freeze(self) -> None:
        """SIGSTOP all its processes."""
        self._begin_outage()
        processes.freeze(self.pid)

    def thaw(self) -> None:
        """SIGCONT them."""
        processes.signal_all(reversed(self.pids()), signal.SIGCONT)
        self._end_outage()

    @contextlib.contextmanager
    def being_away(self) -> Iterator[None]:
        """Keep the block in `outages`: a fault that is done by other means than these."""
        self._begin_outage()
        outage = self.outages[-1]
        try:
            yield
        finally:
            outage.ended = time.time()

    async def destroy(self) -> None:
        """Kill every process of it, without a trace in `outages`."""
        pids = [pid for running in self._running.values() for pid in processes.tree(running.pid)]
        processes.signal_all(pids, signal.SIGKILL)
        await self._reap(pids)

    @property
    def _main(self) -> "subprocess.Popen[bytes]":
        return self._running[self.component.programs()[-1].name]

    def _begin_outage(self) -> None:
        if not self.is_away:
            self.outages.append(Outage(time.time()))

    def _end_outage(self) -> None:
        if self.is_away:
            self.outages[-1].ended = time.time()

    def _launch(self, program: Program) -> "subprocess.Popen[bytes]":
        log = self._log_path(program.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                [str(part) for part in program.command],
                cwd=program.directory,
                env=os.environ | dict(program.environment) | {MARKER: str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C is for us alone; we end the servers.
                start_new_session=True,
            )

    async def _wait_listening(self, program: Program) -> None:
        while program.listens_on is not None and not accepts_connections(program.listens_on):
            self._require_running(program.name)
            await asyncio.sleep(_POLL_SECONDS)

    async def _wait_ready(self) -> None:
        deadline = time.monotonic() + self.component.start_timeout_seconds
        while not await asyncio.to_thread(self.component.is_ready):
            self._require_running(self.name)
            if time.monotonic() > deadline:
                raise ServerBroke(f"{self.name} is not ready; its log is {self.log_path}")
            await asyncio.sleep(_POLL_SECONDS)

    def _require_running(self, program: str) -> None:
        code = self._running[program].poll()
        if code is not None:
            raise ServerBroke(f"{program} ended with {code}; its log is {self._log_path(program)}")

    async def _reap(self, pids: list[int], seconds: float = 10.0) -> None:
        await asyncio.to_thread(processes.wait_gone, pids, seconds)
        for running in self._running.values():
            # A zombie can be waited for once the last of its threads is gone, not at once.
            if running.pid in pids:
                await asyncio.to_thread(running.wait, seconds)

    def _log_path(self, program: str) -> Path:
        return self._folder / "log" / f"{program}.log"


@dataclass(frozen=True)
class ServerSet:
    """The four servers that TaskFlow needs, and what opens them."""

    postgres: Server
    rabbitmq: Server
    redis: Server
    s3: Server
    s3_access_key: str
    s3_secret_key: str
    s3_bucket: str
    rabbitmq_management_url: str

    def all(self) -> list[Server]:
        """Each of them."""
        return [self.postgres, self.rabbitmq, self.redis, self.s3]


def four_servers(folder: Path) -> ServerSet:
    """One server of each kind on free ports, with its data below `folder`; none is started.

    PostgreSQL and RabbitMQ are set up as `make up` does it: what they confirm is on the disk.
    """
    secret = secrets.token_hex(16)
    ports = choose_free(8)
    data = folder / "servers"
    postgres = Postgres(
        data / "postgres",
        ports[0],
        role=_USER,
        password=secret,
        database=_USER,
        # Runs make databases and schemas of their own, and end others' backends.
        superuser=True,
    )
    rabbitmq = RabbitMQ(
        data / "rabbitmq",
        ports[1],
        management_port=ports[2],
        prometheus_port=ports[3],
        epmd_port=ports[4],
        distribution_port=ports[5],
        user=_USER,
        password=secret,
        virtual_host="/",
    )
    redis = Redis(data / "redis", ports[6], secret)
    s3 = S3(data / "s3", ports[7], _USER, secret, _USER)
    login = f"{_USER}:{secret}@{LOOPBACK}"
    return ServerSet(
        postgres=Server(postgres, f"postgresql://{login}:{postgres.port}/{_USER}", folder),
        rabbitmq=Server(rabbitmq, f"amqp://{login}:{rabbitmq.port}/%2F", folder),
        redis=Server(redis, f"redis://:{secret}@{LOOPBACK}:{redis.port}/0", folder),
        s3=Server(s3, f"http://{LOOPBACK}:{s3.port}", folder),
        s3_access_key=_USER,
        s3_secret_key=secret,
        s3_bucket=_USER,
        rabbitmq_management_url=f"http://{login}:{rabbitmq.management_port}",
    )
