"""`make up`, `infra-up`, `migrate`, `down` and `clean` on this machine's own servers."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from taskflow_local import env_file, system_packages
from taskflow_local.command import capture
from taskflow_local.console import say
from taskflow_local.errors import StackError
from taskflow_local.local_stack import build_stack, stack_directory
from taskflow_local.stack import Stack
from taskflow_local.stack_settings import StackSettings, load_stack_settings
from taskflow_local.turns import turn

_SERVER_ADDRESSES = ("TASKFLOW_DATABASE_URL", "TASKFLOW_AMQP_URL")


def up(checkout: Path, environment: Mapping[str, str]) -> None:
    """Start what does not run, servers and services, and return when the API is ready.

    Raises:
        StackError: something does not start; nothing that this call started is left running.
    """
    with _starting(checkout, environment) as (settings, stack):
        stack.require_free_ports([*stack.servers, *stack.services])
        started = stack.start(stack.servers)
        if stack.missing(stack.services):
            migrate(checkout)
        started += stack.start(stack.services)
    report(settings, started, {"logs": f"make logs, or {stack.supervisor.files.log('api').parent}"})


def infra_up(checkout: Path, environment: Mapping[str, str]) -> None:
    """Start the servers alone, and make the database and the topology.

    Raises:
        StackError: as for `up`.
    """
    with _starting(checkout, environment) as (_, stack):
        stack.require_free_ports(stack.servers)
        started = stack.start(stack.servers)
        migrate(checkout)
    say(f"started: {', '.join(started)}" if started else "the servers run already")


def migrate(checkout: Path) -> None:
    """Bring the database and the broker's topology up to this code.

    Raises:
        StackError: with what the migration said.
    """
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    for arguments in (
        ["alembic", "-c", "migrations/alembic.ini", "upgrade", "head"],
        ["taskflow.broker"],
    ):
        capture([sys.executable, "-m", *arguments], checkout, environment=environment)


def down(checkout: Path) -> None:
    """Stop everything that `up` started."""
    with turn(stack_directory(checkout)):
        _stop(checkout)


def clean(checkout: Path) -> None:
    """Stop everything and delete the data; .env stays, for the next data fits it as well."""
    directory = stack_directory(checkout)
    with turn(directory):
        _stop(checkout)
        shutil.rmtree(directory, ignore_errors=True)
    say("the data is deleted; .env is kept")


@contextmanager
def _starting(
    checkout: Path, environment: Mapping[str, str]
) -> Iterator[tuple[StackSettings, Stack]]:
    """A stack that may be started; if the block fails, what it started is stopped again."""
    with turn(stack_directory(checkout)):
        running = bool(Stack(stack_directory(checkout)).supervisor.running())
        settings = settle_settings(checkout, environment, running=running)
        system_packages.ensure_installed()
        stack = build_stack(checkout, settings)
        if differing := stack.supervisor.differing(stack.programs()):
            raise StackError(
                f"these run with other settings than the present ones: {', '.join(differing)};"
                " `make down up` starts them anew"
            )
        with stack.undone_on_failure():
            yield settings, stack


def settle_settings(
    checkout: Path, environment: Mapping[str, str], *, running: bool
) -> StackSettings:
    """Make .env, or complete it, and read it.

    Raises:
        StackError: it can't be used, or the environment moves a port of what is `running`.
    """
    path = checkout / ".env"
    if running and (moved := env_file.moved_ports(path, environment)):
        ports = " ".join(f"{name}={number}" for name, number in moved.items())
        raise StackError(f"what runs can't change its port: `make down`, then `{ports} make up`")
    for note in env_file.prepare(path, checkout / ".env.example", environment):
        say(note)
    values = env_file.read(path)
    # Migration and services read it before .env, so it decides whose servers they are here as well.
    values |= {name: environment[name] for name in _SERVER_ADDRESSES if environment.get(name)}
    return load_stack_settings(values)


def _stop(checkout: Path) -> None:
    try:
        stack = build_stack(checkout, load_stack_settings(env_file.read(checkout / ".env")))
    except StackError:
        # Without usable settings supervisord still knows what it has started.
        stack = Stack(stack_directory(checkout))
    say("stopped" if stack.stop() else "nothing was running")


def report(settings: StackSettings, started: Sequence[str], more: Mapping[str, str]) -> None:
    """Say what was started, the addresses, `more` of them by name, and a first job."""
    if started:
        say(f"started: {', '.join(started)}")
    else:
        say("everything runs already (after a change of code or .env: `make down up`)")
    api = f"http://127.0.0.1:{settings.api_port}"
    addresses = {
        "API": api,
        "API documentation": f"{api}/docs",
        "RabbitMQ": f"http://127.0.0.1:{settings.rabbitmq_management_port} (user taskflow)",
        **more,
    }
    say("")
    for name, address in addresses.items():
        say(f"  {name:<17}   {address}")
    say(
        f"""
A first job:

  curl -s {api}/api/v1/jobs \\
    -H "X-API-Key: $(sed -n 's/^TASKFLOW_API_KEY=//p' .env)" \\
    -H 'Content-Type: application/json' \\
    -d '{{"type": "echo", "payload": {{"text": "hello"}}}}'
"""
    )
