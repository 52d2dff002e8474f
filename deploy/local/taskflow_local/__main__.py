"""`python -m taskflow_local <command>` in a checkout: what the Makefile calls."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from taskflow_local import (
    docker_stack,
    engine,
    inspection,
    lifecycle,
    signals,
    system_packages,
    testing,
)
from taskflow_local.compose import COMPOSE_FILE
from taskflow_local.errors import StackError
from taskflow_local.local_stack import stack_directory
from taskflow_local.stack import Stack

_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run one command in the working directory; the exit code."""
    options = _parser().parse_args(arguments)
    signals.raise_on_ending()
    try:
        return _dispatch(options, Path.cwd().resolve())
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m taskflow_local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install the servers that are missing")
    commands.add_parser("up", help="start servers and services")
    commands.add_parser("infra-up", help="start the servers alone")
    commands.add_parser("migrate", help="bring database and broker topology up to date")
    commands.add_parser("down", help="stop everything")
    commands.add_parser("clean", help="stop everything and delete the data")
    commands.add_parser("ps", help="what runs")
    logs = commands.add_parser("logs", help="follow the logs")
    logs.add_argument("program", nargs="?")
    test = commands.add_parser("test", help="run a command against servers for tests")
    test.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- command")
    commands.add_parser("test-up", help="start servers for tests that stay")
    commands.add_parser("test-down", help="stop them")
    commands.add_parser("test-env", help="print their variables as shell commands")
    return parser


def _dispatch(options: argparse.Namespace, checkout: Path) -> int:
    environment: Mapping[str, str] = os.environ
    if options.command == "test":
        command = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        return testing.run_with_servers(checkout, environment, command)
    actions: dict[str, Callable[[], None]] = {
        "install": system_packages.ensure_installed,
        "migrate": lambda: lifecycle.migrate(checkout),
        "test-up": lambda: testing.test_up(checkout, environment),
        "test-down": lambda: testing.test_down(checkout),
        "test-env": lambda: testing.test_env(checkout),
    }
    if options.command not in actions:
        actions = _stack_actions(options, checkout, environment)
    actions[options.command]()
    return 0


def _stack_actions(
    options: argparse.Namespace, checkout: Path, environment: Mapping[str, str]
) -> dict[str, Callable[[], None]]:
    """What is done in one way on this machine's own servers, and in another with Docker."""
    local_runs = bool(Stack(stack_directory(checkout)).supervisor.running())
    chosen = engine.choose(environment, checkout / COMPOSE_FILE, local_runs=local_runs)
    if chosen is engine.Engine.DOCKER:
        return {
            "up": lambda: docker_stack.up(checkout, environment),
            "infra-up": lambda: docker_stack.infra_up(checkout, environment),
            "down": lambda: docker_stack.down(checkout),
            "clean": lambda: docker_stack.clean(checkout),
            "ps": lambda: docker_stack.show_containers(checkout),
            "logs": lambda: docker_stack.follow_logs(checkout, options.program),
        }
    return {
        "up": lambda: lifecycle.up(checkout, environment),
        "infra-up": lambda: lifecycle.infra_up(checkout, environment),
        "down": lambda: lifecycle.down(checkout),
        "clean": lambda: lifecycle.clean(checkout),
        "ps": lambda: inspection.show_processes(checkout),
        "logs": lambda: inspection.follow_logs(checkout, options.program),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
