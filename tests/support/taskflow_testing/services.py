"""TaskFlow's own services as child processes, on the servers of the tests."""

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from taskflow import api_key
from taskflow_testing.object_store import TestBucket

START_SECONDS = 60.0
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05
_LOG_LINES_SHOWN = 30

# Below the range that the kernel hands to outgoing connections, so that no client takes a port
# between our choosing it and the API's binding it.
_PORTS = range(20_000, 32_000)


class ServiceBroke(Exception):
    """A service ended, or did not become ready; the text ends with its log."""


@dataclass(frozen=True)
class Servers:
    """The servers that the services are to use."""

    database_url: str
    amqp_url: str
    redis_url: str
    s3: TestBucket

    def environment(self) -> dict[str, str]:
        """The settings that say where they are."""
        return {
            "TASKFLOW_DATABASE_URL": self.database_url,
            "TASKFLOW_AMQP_URL": self.amqp_url,
            "TASKFLOW_REDIS_URL": self.redis_url,
            "TASKFLOW_S3_ENDPOINT": self.s3.endpoint,
            "TASKFLOW_S3_ACCESS_KEY": self.s3.access_key,
            "TASKFLOW_S3_SECRET_KEY": self.s3.secret_key,
            "TASKFLOW_S3_BUCKET": self.s3.bucket,
        }


class ServiceProcess:
    """A command with its output in a file. It is not bound to any event loop."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log_path = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                # Away from any .env that is not the test's.
                cwd=log.parent,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it without a warning (SIGKILL), and reap it."""
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def terminate(self) -> int:
        """Ask it to end (SIGTERM) and wait for that; its exit code.

        Raises:
            ServiceBroke: it does not end in time, and was killed.
        """
        if self.is_running:
            self._process.terminate()
        return await self.wait(STOP_SECONDS)

    async def wait(self, timeout: float) -> int:
        """Wait for its end; its exit code.

        Raises:
            ServiceBroke: it does not end in time, and was killed.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while (code := self._process.poll()) is None:
            if asyncio.get_running_loop().time() > deadline:
                self.kill()
                raise ServiceBroke(f"{self.name} did not end within {timeout} s\n{self.log_tail()}")
            await asyncio.sleep(_POLL_SECONDS)
        return code

    async def wait_ready(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        """Return when `is_ready` says so.

        Raises:
            ServiceBroke: it ended first, or it takes too long.
        """
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await is_ready():
            if not self.is_running:
                raise ServiceBroke(f"{self.name} ended at its start\n{self.log_tail()}")
            if asyncio.get_running_loop().time() > deadline:
                raise ServiceBroke(f"{self.name} is not ready\n{self.log_tail()}")
            await asyncio.sleep(_POLL_SECONDS)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log with this event name."""
        return [line for line in self._lines() if line.get("event") == name]

    def log_tail(self) -> str:
        """The end of its log, and how the process ended, if it did."""
        lines = self.log_path.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        code = self._process.poll()
        return "\n".join([*lines, "(it runs)" if code is None else f"(it ended with {code})"])

    def _lines(self) -> Iterator[dict[str, Any]]:
        for text in self.log_path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # a traceback's, or one that is being written
            if isinstance(line, dict):
                yield line


class Services:
    """The services of one stack: started by the tests that need them, stopped together."""

    def __init__(
        self, servers: Servers, folder: Path, handlers_path: Path, **settings: object
    ) -> None:
        """`settings` hold for every service: `lease_seconds=3` is TASKFLOW_LEASE_SECONDS.

        `handlers_path` is a folder with modules that `handlers` may name.
        """
        self.servers = servers
        self.api_key = api_key.generate().text
        self.jwt_secret = secrets.token_hex()
        self.processes: list[ServiceProcess] = []
        self._folder = folder
        self._handlers_path = handlers_path
        self._settings = settings
        self._port = _free_port()

    def client(self) -> httpx.AsyncClient:
        """A client of the API, with its key; for the loop of the test that asks."""
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"X-API-Key": self.api_key},
            timeout=30,
            trust_env=False,
        )

    async def start_api(self, *, wait_for: str = "/readyz", **settings: object) -> ServiceProcess:
        """The API; returns when `wait_for` answers 200."""
        process = self.launch("api", **settings)
        async with self.client() as client:
            await process.wait_ready(lambda: _is_ok(client, wait_for))
        return process

    async def start_consumer(
        self, *, handlers: str = "", concurrency: int = 4, **settings: object
    ) -> ServiceProcess:
        """A consumer; returns when its job types are known. `queues="a,b"` limits it to these."""
        process = self.launch("consumer", handlers=handlers, concurrency=concurrency, **settings)
        await process.wait_ready(lambda: self._is_registered(process))
        return process

    @contextlib.asynccontextmanager
    async def consumer(self, *, handlers: str, **settings: Any) -> AsyncIterator[ServiceProcess]:
        """A consumer for the length of a block; settings as for `start_consumer`."""
        process = await self.start_consumer(handlers=handlers, **settings)
        try:
            yield process
        finally:
            await process.terminate()

    async def start_scheduler(self, **settings: object) -> ServiceProcess:
        """A scheduler; returns when it stands for election."""
        process = self.launch("scheduler", **settings)

        async def has_started() -> bool:
            return bool(process.events("scheduler_started"))

        await process.wait_ready(has_started)
        return process

    def environment(self, **settings: object) -> dict[str, str]:
        """The variables of a process on these servers; `settings` come on top of the common ones.

        No variable TASKFLOW_* of the tests' own environment is among them.
        """
        own = {"api_port": self._port, "api_key": self.api_key, "jwt_secret": self.jwt_secret}
        settings = {**own, **self._settings, **settings}
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("TASKFLOW_")},
            **self.servers.environment(),
            **{f"TASKFLOW_{name.upper()}": str(value) for name, value in settings.items()},
            "PYTHONPATH": str(self._handlers_path),
        }

    def launch(self, name: str, **settings: object) -> ServiceProcess:
        """Start `taskflow_<name>` and wait for nothing."""
        number = len(self.processes) + 1
        log = self._folder / f"{number:02d}-{name}.log"
        environment = self.environment(**settings)
        command = [sys.executable, "-m", f"taskflow_{name}"]
        process = ServiceProcess(f"{name} ({number})", command, environment, log)
        self.processes.append(process)
        return process

    def logs(self) -> list[tuple[str, str]]:
        """A title and the end of the log, for each process that was started."""
        return [(f"log of {process.name}", process.log_tail()) for process in self.processes]

    async def stop(self, *, but_first: int = 0) -> None:
        """Ask all that run to end, in the order in which they were started; the API first.

        So many of the first are left running; the others are forgotten.

        Raises:
            ServiceBroke: one had to be killed.
        """
        ending, self.processes = self.processes[but_first:], self.processes[:but_first]
        for process in ending:
            if process.is_running:
                process.signal(signal.SIGTERM)
        codes = [process.wait(STOP_SECONDS) for process in ending]
        failures = await asyncio.gather(*codes, return_exceptions=True)
        for failure in failures:
            if isinstance(failure, BaseException):
                raise failure

    async def _is_registered(self, process: ServiceProcess) -> bool:
        """Whether a worker with this process's id says that it runs."""
        connection = await asyncpg.connect(self.servers.database_url)
        try:
            found = await connection.fetchval(
                "SELECT true FROM workers WHERE pid = $1 AND state = 'running'", process.pid
            )
        finally:
            await connection.close()
        return bool(found)


class NewServices:
    """Makes services of a test's own; none of them is started."""

    def __init__(
        self, new_folder: Callable[[str], Path], handlers_path: Path, **settings: object
    ) -> None:
        self.made: list[Services] = []
        self._new_folder = new_folder
        self._handlers_path = handlers_path
        self._settings = settings

    def __call__(self, servers: Servers, **settings: object) -> Services:
        """Services on `servers`; `settings` come on top of what all of them are made with."""
        folder = self._new_folder("services")
        settings = self._settings | settings
        self.made.append(Services(servers, folder, self._handlers_path, **settings))
        return self.made[-1]


async def _is_ok(client: httpx.AsyncClient, path: str) -> bool:
    try:
        answer = await client.get(path)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def _free_port() -> int:
    for number in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", number))
            except OSError:
                continue
            return number
    raise ServiceBroke("no port is free")
