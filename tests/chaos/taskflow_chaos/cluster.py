"""Everything that a scenario runs on: its own servers, and the services as a user starts them."""

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from taskflow import api_key
from taskflow_chaos.handlers import EFFECTS_VARIABLE
from taskflow_chaos.keeper import Keeper
from taskflow_chaos.service_logs import ServiceLogs
from taskflow_local.ports import LOOPBACK, choose_free
from taskflow_local.services import is_green
from taskflow_local.supervisor import MARKER
from taskflow_testing.own_servers import Server, ServerSet, four_servers
from taskflow_testing.tcp_proxy import TcpProxy

ROLES = ("api", "consumer", "scheduler")
START_SECONDS = 90.0
STOP_SECONDS = 60.0
_POLL_SECONDS = 0.1

# Jobs wait rather than work: with more slots than the default the load goes through on few cores,
# and a consumer that dies leaves more orphans.
_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "consumer": {"handlers": "taskflow_chaos.handlers", "concurrency": 20},
}


class ClusterBroke(Exception):
    """It did not come up; the text says what and where the log is."""


@dataclass(frozen=True)
class Layout:
    """What a scenario wants to be different. Names are roles (`api`, `consumer`, `scheduler`) or
    single services (`consumer-3`), which come on top of their role.

    `settings`: `{"consumer": {"lease_seconds": 3}}` is TASKFLOW_LEASE_SECONDS.
    `environment`: variables as they are, for instance LD_PRELOAD.
    `proxies`: which services reach a server (`postgres`, `rabbitmq`, `redis`, `s3`) by a proxy.
    """

    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    proxies: Mapping[str, Collection[str]] = field(default_factory=dict)
    servers: Callable[[Path], ServerSet] = four_servers
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"api": 2, "consumer": 4, "scheduler": 2}
    )


class Cluster:
    """Servers, proxies and services in one folder. Made by `running_cluster`."""

    def __init__(self, folder: Path, layout: Layout, checkout: Path) -> None:
        self.folder = folder
        self.effects_folder = folder / "effects"
        self.servers = layout.servers(folder)
        self.proxies: dict[str, TcpProxy] = {}
        """By server, for those that the layout names."""
        self.api_key = api_key.generate().text
        self._jwt_secret = secrets.token_hex()
        self.apis: list[Keeper] = []
        self.consumers: list[Keeper] = []
        self.schedulers: list[Keeper] = []
        self._layout = layout
        self._checkout = checkout
        self._api_ports = choose_free(layout.counts["api"])

    @property
    def postgres(self) -> Server:
        """PostgreSQL."""
        return self.servers.postgres

    @property
    def rabbitmq(self) -> Server:
        """RabbitMQ."""
        return self.servers.rabbitmq

    @property
    def redis(self) -> Server:
        """Redis."""
        return self.servers.redis

    @property
    def s3(self) -> Server:
        """The object store."""
        return self.servers.s3

    @property
    def api_urls(self) -> list[str]:
        """The base URL of each API, in the order of `apis`."""
        return [f"http://{LOOPBACK}:{port}" for port in self._api_ports]

    @property
    def logs(self) -> ServiceLogs:
        """What the services wrote so far."""
        return ServiceLogs(service.log_path for service in self.services())

    def services(self) -> list[Keeper]:
        """All of them: APIs, consumers, schedulers."""
        return [*self.apis, *self.consumers, *self.schedulers]

    async def connect(self) -> asyncpg.Connection:
        """A connection to the database, past any proxy; the caller closes it."""
        return await asyncpg.connect(self.postgres.url, timeout=10, command_timeout=60)

    async def answers(self, api: Keeper) -> bool:
        """Whether this API says that it is ready."""
        port = self._api_ports[self.apis.index(api)]
        return await asyncio.to_thread(is_green, port)

    async def start(self) -> None:
        """Start everything; returns when jobs can be submitted and every consumer serves."""
        self.effects_folder.mkdir(parents=True)
        others = (self.servers.rabbitmq, self.servers.redis, self.servers.s3)
        async with asyncio.TaskGroup() as tasks:
            for server in others:
                tasks.create_task(server.start())
            await self.postgres.start()
            await self._run_to_end("alembic", "-c", "migrations/alembic.ini", "upgrade", "head")
        await self._run_to_end("taskflow.broker")
        self._make_services()
        for service in self.services():
            await service.start()
        async with asyncio.timeout(START_SECONDS):
            await self._wait_ready()

    async def stop_services(self) -> list[str]:
        """SIGTERM every service and start it no more; a line for each that did not end well.

        All are well before: one that a fault has just ended is waited for.
        """
        unwell = []
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._wait_ready()
        except (TimeoutError, OSError, asyncpg.PostgresError) as error:
            why = str(error) or type(error).__name__
            unwell = [f"not all services were well at the end: {why}"]
        services = self.services()
        codes = await asyncio.gather(*(each.stop(STOP_SECONDS) for each in services))
        return unwell + [
            f"{service.name} did not end within {STOP_SECONDS:.0f} s of its SIGTERM"
            if code is None
            else f"{service.name} ended with {code} after its SIGTERM"
            for service, code in zip(services, codes, strict=True)
            if code != 0
        ]

    async def destroy(self) -> None:
        """Kill whatever runs."""
        for service in self.services():
            await service.destroy()
        for server in self.servers.all():
            await server.destroy()

    async def open_proxies(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the proxies that the layout names; they close with `stack`."""
        for name in self._layout.proxies:
            server: Server = getattr(self.servers, name)
            self.proxies[name] = await stack.enter_async_context(TcpProxy(server.url))

    def _make_services(self) -> None:
        made = {"api": self.apis, "consumer": self.consumers, "scheduler": self.schedulers}
        for role, keepers in made.items():
            for number in range(1, self._layout.counts[role] + 1):
                name = f"{role}-{number}"
                log_path = self.folder / "log" / f"{name}.log"
                environment = self._environment(role, name)
                keepers.append(Keeper.of_service(name, f"taskflow_{role}", environment, log_path))

    def _environment(self, role: str, name: str) -> dict[str, str]:
        """The variables of one service; none TASKFLOW_* of our own environment is among them."""
        settings: dict[str, object] = {
            "database_url": self._url("postgres", role, name),
            "amqp_url": self._url("rabbitmq", role, name),
            "redis_url": self._url("redis", role, name),
            "s3_endpoint": self._url("s3", role, name),
            "s3_access_key": self.servers.s3_access_key,
            "s3_secret_key": self.servers.s3_secret_key,
            "s3_bucket": self.servers.s3_bucket,
            "api_key": self.api_key,
            "jwt_secret": self._jwt_secret,
        }
        if role == "api":
            settings["api_port"] = self._api_ports[int(name.rpartition("-")[2]) - 1]
        more: dict[str, str] = {}
        for which in (role, name):
            settings |= _SETTINGS.get(which, {})
            settings |= self._layout.settings.get(which, {})
            more |= self._layout.environment.get(which, {})
        return {
            **_own_environment(),
            **{f"TASKFLOW_{key.upper()}": str(value) for key, value in settings.items()},
            "PYTHONUNBUFFERED": "1",
            EFFECTS_VARIABLE: str(self.effects_folder),
            MARKER: str(self.folder),
            **more,
        }

    def _url(self, server: str, role: str, name: str) -> str:
        through = self._layout.proxies.get(server, ())
        if role in through or name in through:
            return self.proxies[server].url
        real: Server = getattr(self.servers, server)
        return real.url

    async def _run_to_end(self, module: str, *arguments: str) -> None:
        environment = {
            **_own_environment(),
            "TASKFLOW_DATABASE_URL": self.postgres.url,
            "TASKFLOW_AMQP_URL": self.rabbitmq.url,
            MARKER: str(self.folder),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            cwd=self._checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise ClusterBroke(f"{module} ended with {process.returncode}:\n{output.decode()}")

    async def _wait_ready(self) -> None:
        for api in self.apis:
            while not await self.answers(api):
                await asyncio.sleep(_POLL_SECONDS)
        connection = await self.connect()
        try:
            while not await self._all_registered(connection):
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await connection.close()
        while len(self.logs.events("scheduler_started")) < len(self.schedulers):
            await asyncio.sleep(_POLL_SECONDS)

    async def _all_registered(self, connection: asyncpg.Connection) -> bool:
        rows = await connection.fetch("SELECT pid FROM workers WHERE state = 'running'")
        registered = {row["pid"] for row in rows}
        # The row of one that has just been killed says `running` until it is found lost.
        return all(each.is_running and each.pid in registered for each in self.consumers)


@contextlib.asynccontextmanager
async def running_cluster(folder: Path, layout: Layout, checkout: Path) -> AsyncIterator[Cluster]:
    """A cluster that runs, and of which nothing runs any more afterwards."""
    cluster = Cluster(folder, layout, checkout)
    async with contextlib.AsyncExitStack() as stack:
        await cluster.open_proxies(stack)
        stack.push_async_callback(cluster.destroy)
        try:
            await cluster.start()
        except TimeoutError:
            logs = folder / "log"
            raise ClusterBroke(f"not ready within {START_SECONDS:.0f} s; see {logs}") from None
        yield cluster


def _own_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("TASKFLOW_")}
