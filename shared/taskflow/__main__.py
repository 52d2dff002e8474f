"""The command line, `taskflow` or `python -m taskflow`: settings from the environment and .env."""

import argparse
import logging
import sys
from collections.abc import Sequence

from taskflow.access import command as keys
from taskflow.doctor import command as doctor
from taskflow.errors import ConfigurationError
from taskflow.settings import (
    ApiSettings,
    ConsumerSettings,
    DatabaseSettings,
    DoctorSettings,
    ResealSettings,
    SchedulerSettings,
    Settings,
    load_settings,
)

COULD_NOT_BEGIN = 2

_PROCESSES: dict[str, type[Settings]] = {
    "the API": ApiSettings,
    "a consumer": ConsumerSettings,
    "a scheduler": SchedulerSettings,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    parser = argparse.ArgumentParser(prog="taskflow", description="TaskFlow's command line.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    doctor.add_arguments(
        commands.add_parser(
            "doctor",
            help="say whether the running system is well, and what to do where it is not",
            description="Say whether the running system is well, and what to do where it is not."
            " Exit code 0: well; 1: something is broken; 2: something could not be looked at.",
        )
    )
    keys.add_arguments(
        commands.add_parser(
            "keys",
            help="make an API key for any tenant",
            description="Make an API key for any tenant, new ones among them. It works at the"
            " database, as the owner of its tables: TASKFLOW_DATABASE_URL names that login.",
        )
    )
    reseal_parser = commands.add_parser(
        "reseal",
        help="seal what jobs hold with the first key of TASKFLOW_PAYLOAD_KEYS",
        description="Seal what jobs hold with the first key of TASKFLOW_PAYLOAD_KEYS, whatever it"
        " is sealed with now, while everything runs. Exit code 0: nothing is left to do; 1:"
        " something is.",
    )
    reseal_parser.add_argument(
        "--dry-run", action="store_true", help="change nothing: count what is left to do"
    )
    parsed = parser.parse_args(arguments)
    # What libraries would say of a server that is away, the report says in its own words.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        if parsed.command == "keys":
            return keys.run(parsed, load_settings(DatabaseSettings))
        if parsed.command == "reseal":
            return _reseal(dry_run=parsed.dry_run)
        return doctor.run(parsed, load_settings(DoctorSettings), _setting_problems())
    except ConfigurationError as error:
        sys.stderr.write(f"taskflow: {error}\n")
        return COULD_NOT_BEGIN


def _reseal(*, dry_run: bool) -> int:
    # Late: who has no keys need not have what it takes to seal.
    from taskflow.sealing import command as reseal

    return reseal.run(load_settings(ResealSettings), dry_run=dry_run)


def _setting_problems() -> list[str]:
    """What would keep a process from starting with the settings of this place."""
    problems = []
    for process, settings_type in _PROCESSES.items():
        try:
            load_settings(settings_type)
        except ConfigurationError as error:
            problems.append(f"{process}: {error}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
