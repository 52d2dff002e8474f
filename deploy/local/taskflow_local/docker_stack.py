"""`make up`, `infra-up`, `down`, `clean`, `ps` and `logs` with Docker Compose."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from taskflow_local import lifecycle, signals
from taskflow_local.compose import Compose, Container
from taskflow_local.console import say
from taskflow_local.errors import StackError
from taskflow_local.local_stack import stack_directory
from taskflow_local.ports import LOOPBACK, Port, require_free
from taskflow_local.services import is_green
from taskflow_local.stack_settings import StackSettings
from taskflow_local.turns import turn

SERVERS = ("postgres", "rabbitmq", "redis", "minio")
SERVICES = ("api", "consumer", "scheduler")
ONE_SHOTS = ("postgres-setup", "migrate")

_REPLICAS = {"scheduler": 2}
_POLL_SECONDS = 0.5
_READY_SECONDS = 180
_LATE = f"is not ready after {_READY_SECONDS} seconds"


def up(checkout: Path, environment: Mapping[str, str]) -> None:
    """Build and start what does not run, and return when the API is ready.

    Raises:
        StackError: something does not start; nothing that this call started is left running.
    """
    wanted = (*SERVERS, *SERVICES)
    with _starting(checkout, environment) as (settings, compose):
        if missing := _missing(compose, wanted):
            require_free(published_ports(settings, missing))
            say("building the images; the first time takes minutes")
            compose.run("build", "migrate", *SERVICES)
            _start(compose, missing)
        _wait_until_well(compose, wanted)
        _wait_until_green(compose, settings.api_port)
    console = f"http://{LOOPBACK}:{settings.s3_console_port} (keys: TASKFLOW_S3_* in .env)"
    lifecycle.report(settings, missing, {"MinIO": console, "logs": "make logs"})


def infra_up(checkout: Path, environment: Mapping[str, str]) -> None:
    """Start the servers alone, and make the database and the topology.

    Raises:
        StackError: as for `up`.
    """
    with _starting(checkout, environment) as (settings, compose):
        if missing := _missing(compose, SERVERS):
            require_free(published_ports(settings, missing))
            _start(compose, [*missing, "postgres-setup"])
            _wait_until_well(compose, ["postgres-setup"])
        _wait_until_well(compose, SERVERS)
        lifecycle.migrate(checkout)
    say(f"started: {', '.join(missing)}" if missing else "the servers run already")


def down(checkout: Path) -> None:
    """Stop everything that `up` started; the volumes stay."""
    _stop(checkout)


def clean(checkout: Path) -> None:
    """Stop everything and delete volumes and images; .env stays, for the next data fits it too."""
    _stop(checkout, "--volumes", "--rmi", "local")
    say("the data is deleted; .env is kept")


def show_containers(checkout: Path) -> None:
    """A table of the containers: state, uptime, ports."""
    compose = Compose(checkout)
    if not any(container.is_up for container in compose.containers()):
        say("nothing runs; `make up` starts everything")
        return
    say(compose.capture("ps").rstrip())


def follow_logs(checkout: Path, service: str | None) -> None:
    """Show the last lines of one service's log, or of all, and go on as they grow.

    Raises:
        StackError: there is no such service, or nothing has run yet.
    """
    compose = Compose(checkout)
    known = sorted({container.service for container in compose.containers()})
    if not known:
        raise StackError("no logs yet; `make up` starts everything")
    if service is not None and service not in known:
        raise StackError(f"there is no service {service!r}; there are: {', '.join(known)}")
    chosen = [] if service is None else [service]
    compose.replace_process("logs", "--follow", "--tail", "20", *chosen)


def published_ports(settings: StackSettings, services: Iterable[str]) -> list[Port]:
    """Ports on loopback that these services take."""
    ports = {
        "api": [Port(settings.api_port, "the API", "TASKFLOW_API_PORT")],
        "postgres": [Port(settings.postgres_port, "PostgreSQL", "TASKFLOW_POSTGRES_PORT")],
        "rabbitmq": [
            Port(settings.rabbitmq_port, "RabbitMQ", "TASKFLOW_RABBITMQ_PORT"),
            Port(
                settings.rabbitmq_management_port,
                "RabbitMQ's management",
                "TASKFLOW_RABBITMQ_MANAGEMENT_PORT",
            ),
            Port(
                settings.rabbitmq_prometheus_port,
                "RabbitMQ's metrics",
                "TASKFLOW_RABBITMQ_PROMETHEUS_PORT",
            ),
        ],
        "redis": [Port(settings.redis_port, "Redis", "TASKFLOW_REDIS_PORT")],
        "minio": [
            Port(settings.s3_port, "S3", "TASKFLOW_S3_PORT"),
            Port(settings.s3_console_port, "MinIO's console", "TASKFLOW_S3_CONSOLE_PORT"),
        ],
    }
    return [port for service in services for port in ports.get(service, [])]


@contextmanager
def _starting(
    checkout: Path, environment: Mapping[str, str]
) -> Iterator[tuple[StackSettings, Compose]]:
    """A project that may be started; if the block fails, what it started is stopped again."""
    with turn(stack_directory(checkout)):
        before = _up(Compose(checkout, environment).containers())
        settings = lifecycle.settle_settings(checkout, environment, running=bool(before))
        compose = Compose(checkout, environment)
        differing = {
            container.service
            for container in before
            if container.settings_digest != compose.settings_digest
        }
        if differing:
            raise StackError(
                f"these run with other settings than the present ones: "
                f"{', '.join(sorted(differing))}; `make down up` starts them anew"
            )
        try:
            yield settings, compose
        except BaseException:
            with signals.ignored():
                _undo(compose, {container.service for container in before})
            raise


def _start(compose: Compose, services: Sequence[str]) -> None:
    # What has ended is made anew, from the present images; what runs is left alone.
    compose.capture("rm", "--force", *ONE_SHOTS, *services)
    try:
        compose.run("up", "--detach", "--no-recreate", "--quiet-pull", *services)
    except StackError:
        for container in compose.containers():
            if container.has_failed or container.health == "unhealthy":
                raise _failure(compose, container, "does not run") from None
        raise


def _undo(compose: Compose, ran_before: set[str]) -> None:
    if not ran_before:
        compose.run("down", "--remove-orphans")
        return
    started = {container.service for container in compose.containers()} - ran_before
    if started:
        compose.run("rm", "--force", "--stop", *sorted(started))


def _stop(checkout: Path, *options: str) -> None:
    compose = Compose(checkout)
    with turn(stack_directory(checkout)):
        was_running = bool(_up(compose.containers()))
        compose.run("down", "--remove-orphans", *options)
    say("stopped" if was_running else "nothing was running")


def _up(containers: Iterable[Container]) -> list[Container]:
    return [container for container in containers if container.is_up]


def _missing(compose: Compose, services: Sequence[str]) -> list[str]:
    """Those of which not every replica runs."""
    running = Counter(container.service for container in _up(compose.containers()))
    return [service for service in services if running[service] < _REPLICAS.get(service, 1)]


def _wait_until_well(compose: Compose, services: Sequence[str]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        found = [each for each in compose.containers() if each.service in services]
        for container in found:
            if container.has_failed:
                raise _failure(compose, container, "does not run")
        waiting = [container for container in found if not container.is_well]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise _failure(compose, waiting[0], _LATE)
        time.sleep(_POLL_SECONDS)


def _wait_until_green(compose: Compose, port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not is_green(port):
        if time.monotonic() > deadline:
            api = next(each for each in compose.containers() if each.service == "api")
            raise _failure(compose, api, f"{_LATE} on port {port}")
        time.sleep(_POLL_SECONDS)


def _failure(compose: Compose, container: Container, what: str) -> StackError:
    words = compose.last_words(container)
    return StackError(f"{container.service} {what} ({container}); the end of its log:\n{words}")
