"""`make test` and its relations: servers for tests, and a command that runs against them."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from taskflow_local import signals, system_packages, throwaway
from taskflow_local.command import attach
from taskflow_local.console import say
from taskflow_local.errors import StackError
from taskflow_local.turns import turn

_SIGNAL_EXIT_BASE = 128


def kept_directory(checkout: Path) -> Path:
    """Where the servers are that `make test-up` starts and tests find by themselves."""
    return checkout / ".taskflow" / "test"


def test_up(checkout: Path, environment: Mapping[str, str]) -> None:
    """Start servers for tests that stay; the same again changes nothing."""
    directory = kept_directory(checkout)
    with turn(directory):
        if throwaway.running(directory) is not None:
            say("servers for tests run already")
            return
        system_packages.ensure_installed()
        throwaway.start(directory, environment)
    say("servers for tests run; pytest finds them by itself, and `make test-down` stops them")


def test_down(checkout: Path) -> None:
    """Stop them and delete their data."""
    directory = kept_directory(checkout)
    with turn(directory):
        was_running = throwaway.stop(directory)
    say("stopped" if was_running else "no servers for tests were running")


def test_env(checkout: Path) -> None:
    """Print the variables of the servers that run, for a shell to evaluate.

    Raises:
        StackError: none run.
    """
    variables = throwaway.running(kept_directory(checkout))
    if variables is None:
        raise StackError("no servers for tests run; `make test-up` starts them")
    for name, value in variables.items():
        say(f"export {name}={shlex.quote(value)}")


def run_with_servers(checkout: Path, environment: Mapping[str, str], command: Sequence[str]) -> int:
    """Run a command with servers for tests in its environment; its exit code.

    Servers that run already, or that the environment names, are used; others are started for
    this command alone and stopped after it, however it ends.
    """
    kept = throwaway.running(kept_directory(checkout))
    if kept is not None:
        return _run(command, checkout, {**kept, **environment})
    system_packages.ensure_installed()
    directory = throwaway.own_directory(checkout / ".taskflow")
    try:
        variables = throwaway.start(directory, environment)
        return _run(command, checkout, {**environment, **variables})
    finally:
        with signals.ignored():
            throwaway.stop(directory)


def _run(command: Sequence[str], checkout: Path, environment: Mapping[str, str]) -> int:
    process = attach(command, checkout, environment=environment)
    with signals.left_to(process):
        code = process.wait()
    return code if code >= 0 else _SIGNAL_EXIT_BASE - code
