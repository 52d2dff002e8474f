"""Servers for tests: free ports, data thrown away, and the variables by which tests find them."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from taskflow_local.component import Component
from taskflow_local.ports import LOOPBACK, choose_free
from taskflow_local.postgres import Postgres
from taskflow_local.private_file import write_private
from taskflow_local.processes import is_alive
from taskflow_local.rabbitmq import RabbitMQ
from taskflow_local.redis import Redis
from taskflow_local.s3 import S3
from taskflow_local.stack import Stack

_PREFIX = "TASKFLOW_TEST_"
_USER = "taskflow"

_Choice = tuple[Component, dict[str, str]]


def start(directory: Path, provided: Mapping[str, str]) -> dict[str, str]:
    """Start the servers that `provided` does not name already, on data that is new.

    Returns:
        The tests' variables for the servers that were started.

    Raises:
        StackError: a server does not start; then none is left running.
    """
    stop(directory)
    servers, variables = _choose_servers(directory, provided)
    if not servers:
        return variables
    stack = Stack(directory, servers)
    with stack.undone_on_failure():
        stack.start(servers)
        lines = "".join(f"{name}={value}\n" for name, value in variables.items())
        write_private(_env_file(directory), lines)
    return variables


def stop(directory: Path) -> bool:
    """Stop the servers and delete their data; False if none ran."""
    was_running = Stack(directory).stop()
    shutil.rmtree(directory, ignore_errors=True)
    return was_running


def running(directory: Path) -> dict[str, str] | None:
    """Variables of the servers that run in `directory`; None if not all that were started do."""
    statuses = Stack(directory).supervisor.statuses().values()
    file = _env_file(directory)
    if not statuses or not all(status.is_running for status in statuses) or not file.exists():
        return None
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def own_directory(parent: Path) -> Path:
    """Where this process keeps servers that end with it; those of dead processes are stopped."""
    for path in parent.glob("test-*"):
        owner = path.name.removeprefix("test-")
        if owner.isdigit() and not is_alive(int(owner)):
            stop(path)
    return parent / f"test-{os.getpid()}"


def _choose_servers(
    directory: Path, provided: Mapping[str, str]
) -> tuple[list[Component], dict[str, str]]:
    """Servers that are not provided, and the variables by which tests find them."""
    secret = secrets.token_hex(16)
    # Chosen together, so that no two are the same.
    ports = iter(choose_free(8))
    servers: list[Component] = []
    variables: dict[str, str] = {}
    for build in (_postgres, _rabbitmq, _redis, _s3):
        server, values = build(directory, secret, ports)
        named = {f"{_PREFIX}{name}": value for name, value in values.items()}
        if not all(provided.get(name) for name in named):
            servers.append(server)
            variables |= named
    return servers, variables


def _postgres(directory: Path, secret: str, ports: Iterator[int]) -> _Choice:
    server = Postgres(
        directory / "postgres",
        next(ports),
        role=_USER,
        password=secret,
        database=_USER,
        superuser=True,
        throwaway=True,
    )
    return server, {
        "DATABASE_URL": f"postgresql://{_USER}:{secret}@{LOOPBACK}:{server.port}/{_USER}"
    }


def _rabbitmq(directory: Path, secret: str, ports: Iterator[int]) -> _Choice:
    server = RabbitMQ(
        directory / "rabbitmq",
        next(ports),
        management_port=next(ports),
        prometheus_port=next(ports),
        epmd_port=next(ports),
        distribution_port=next(ports),
        user=_USER,
        password=secret,
        virtual_host="/",
        throwaway=True,
    )
    login = f"{_USER}:{secret}@{LOOPBACK}"
    return server, {
        "AMQP_URL": f"amqp://{login}:{server.port}/%2F",
        "RABBITMQ_MANAGEMENT_URL": f"http://{login}:{server.management_port}",
    }


def _redis(directory: Path, secret: str, ports: Iterator[int]) -> _Choice:
    server = Redis(directory / "redis", next(ports), secret, throwaway=True)
    return server, {"REDIS_URL": f"redis://:{secret}@{LOOPBACK}:{server.port}/0"}


def _s3(directory: Path, secret: str, ports: Iterator[int]) -> _Choice:
    server = S3(directory / "s3", next(ports), _USER, secret, _USER)
    return server, {
        "S3_ENDPOINT": f"http://{LOOPBACK}:{server.port}",
        "S3_ACCESS_KEY": _USER,
        "S3_SECRET_KEY": secret,
    }


def _env_file(directory: Path) -> Path:
    return directory / "env"
