"""Running other programs to their end."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from taskflow_local.errors import StackError


def capture(
    command: Sequence[str | Path],
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    input_text: str = "",
) -> str:
    """Run a program; what it wrote, both streams together.

    Raises:
        StackError: it ended with another exit code than 0; the text holds what it wrote.
    """
    done = subprocess.run(  # noqa: S603  (argument lists of ours, and no shell)
        [str(part) for part in command],
        check=False,
        cwd=directory,
        env=environment,
        input=input_text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        line = shlex.join(str(part) for part in command)
        raise StackError(
            f"this failed (exit code {done.returncode}): {line}\n{done.stdout.strip()}"
        )
    return done.stdout


def attach(
    command: Sequence[str | Path],
    directory: Path,
    *,
    environment: Mapping[str, str] = os.environ,
) -> "subprocess.Popen[bytes]":
    """Start a program that shares our terminal."""
    return subprocess.Popen(  # noqa: S603  (what the user asked to run)
        [str(part) for part in command], cwd=directory, env=dict(environment)
    )
