"""The one place that decides what a stack runs on: this machine's own servers, or Docker."""

import shutil
import subprocess
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from taskflow_local.errors import StackError

OVERRIDE = "TASKFLOW_STACK"
_ANSWER_SECONDS = 10


class Engine(Enum):
    """What a stack runs on."""

    LOCAL = "local"
    DOCKER = "docker"


def choose(environment: Mapping[str, str], compose_file: Path, *, local_runs: bool) -> Engine:
    """What TASKFLOW_STACK says, else what runs, else Docker where an engine answers.

    Raises:
        StackError: TASKFLOW_STACK says something else, or docker where there is no Compose file.
    """
    wish = environment.get(OVERRIDE, "")
    if wish not in {"", *(engine.value for engine in Engine)}:
        raise StackError(f"{OVERRIDE} is {wish!r}; it may be local or docker")
    if wish == Engine.DOCKER.value and not compose_file.exists():
        raise StackError(f"{OVERRIDE}=docker, but there is no {compose_file}")
    if wish:
        return Engine(wish)
    if local_runs:
        return Engine.LOCAL
    return Engine.DOCKER if compose_file.exists() and _docker_answers() else Engine.LOCAL


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        done = subprocess.run(  # noqa: S603  (a fixed argument list)
            [docker, "info", "--format", "{{.ServerVersion}}"],
            check=False,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())
