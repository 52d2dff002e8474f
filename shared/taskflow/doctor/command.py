"""`taskflow doctor`: its arguments, and what it prints."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence

from taskflow.doctor.diagnosis import Diagnosis, exit_code, ok, warn
from taskflow.doctor.examination import examine
from taskflow.doctor.privacy import check_privacy
from taskflow.doctor.report import as_json, as_text
from taskflow.settings import DoctorSettings

NEWEST_JOBS = 100_000
OBJECTS = 500
TIMEOUT_SECONDS = 60.0
LARGEST = 10**9
LONGEST_SECONDS = 86_400.0
"""They keep what is said on the command line within PostgreSQL's types."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--jobs",
        type=_count,
        default=NEWEST_JOBS,
        metavar="N",
        help=f"how many of the newest jobs the invariants look at (default {NEWEST_JOBS}, 0: all)",
    )
    parser.add_argument(
        "--objects",
        type=_count,
        default=OBJECTS,
        metavar="N",
        help=f"how many objects in S3 are looked for, drawn at random (default {OBJECTS})",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"how long one invariant may take (default {TIMEOUT_SECONDS:g})",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or (number := int(text)) > LARGEST:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {LARGEST}")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {LONGEST_SECONDS:g} seconds")
    return number


def run(
    arguments: argparse.Namespace, settings: DoctorSettings, setting_problems: Sequence[str]
) -> int:
    """Look, print, and return the exit code: 0 well, 1 broken, 2 something was not looked at."""
    found = asyncio.run(
        examine(
            settings,
            newest_jobs=arguments.jobs,
            objects=arguments.objects,
            timeout_seconds=arguments.timeout,
        )
    )
    diagnoses = [_settings(setting_problems), check_privacy(settings), *found]
    form: Callable[[Sequence[Diagnosis]], str] = as_json if arguments.json else as_text
    sys.stdout.write(form(diagnoses) + "\n")
    return exit_code(diagnoses)


def _settings(problems: Sequence[str]) -> Diagnosis:
    if problems:
        return warn(
            "settings",
            "some processes would not start from here",
            "Set them in the environment or in .env; .env.example explains each.",
            problems,
        )
    return ok("settings", "those of every process are there")
