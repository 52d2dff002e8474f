"""Docker Compose on deploy/compose.yaml, and what its containers are doing."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskflow_local import env_file
from taskflow_local.command import capture
from taskflow_local.errors import StackError

COMPOSE_FILE = Path("deploy") / "compose.yaml"
SETTINGS_LABEL = "taskflow.settings"

_LABEL_PREFIX = "com.docker.compose"
_DEFAULT_GRACE_SECONDS = 30.0
# As on this machine: whoever is told to stop still has connections to close.
_STOP_MARGIN_SECONDS = 15
# One or two may be a server that was slow to come.
_RESTARTS_OF_A_LOOP = 3
# Of a log or of an error, where only its end is shown.
_LINES = 20


@dataclass(frozen=True)
class Container:
    """One container of the project, as the engine sees it; `health` is None without a check."""

    name: str
    service: str
    status: str
    health: str | None
    exit_code: int
    restarts: int
    settings_digest: str

    @property
    def is_up(self) -> bool:
        """Whether the engine keeps it running, well or not."""
        return self.status in {"running", "restarting", "paused"}

    @property
    def is_well(self) -> bool:
        """Whether it does its work now; of one that is to end, whether it ended well."""
        if self.status == "running":
            return self.health in {None, "healthy"}
        return self.status == "exited" and self.exit_code == 0

    @property
    def has_failed(self) -> bool:
        """Whether waiting longer won't make it well."""
        if self.status == "restarting":
            return self.restarts >= _RESTARTS_OF_A_LOOP
        return self.status in {"exited", "dead"} and self.exit_code != 0

    def __str__(self) -> str:
        """What state it is in."""
        words = [self.status]
        if self.status != "running":
            words.append(f"exit code {self.exit_code}")
        return ", ".join([*words, *([self.health] if self.health else [])])


class Compose:
    """The project of one checkout: its containers, networks, volumes and images."""

    def __init__(self, checkout: Path, environment: Mapping[str, str] = os.environ) -> None:
        """Nothing is started.

        Raises:
            StackError: there is no Docker Compose here.
        """
        self.checkout = checkout
        # Another checkout's containers and data are not ours to replace or delete.
        digest = hashlib.sha256(os.fsencode(checkout)).hexdigest()
        self.project = f"taskflow-{digest[:8]}"
        self._docker = _require_docker(checkout)
        values = _usable_values(checkout / ".env")
        self._files = ["--file", str(checkout / COMPOSE_FILE)]
        if values:
            self._files += ["--env-file", str(checkout / ".env")]
        self.settings_digest = _digest(values, checkout / COMPOSE_FILE)
        self._environment = {
            **environment,
            "TASKFLOW_SETTINGS_DIGEST": self.settings_digest,
            "TASKFLOW_CONSUMER_STOP_GRACE_PERIOD": _stop_grace_period({**values, **environment}),
            # They carry the time of the build, and with it the same image would be another one.
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        }

    def run(self, *arguments: str) -> None:
        """Run `docker compose`, its progress shown on a terminal.

        Raises:
            StackError: it failed.
        """
        if not sys.stderr.isatty():
            self.capture(*arguments)
            return
        command = [*self._command(), *arguments]
        done = subprocess.run(  # noqa: S603  (an argument list of ours)
            command, check=False, cwd=self.checkout, env=self._environment
        )
        if done.returncode != 0:
            raise StackError(f"docker compose {arguments[0]} failed; its own words are above")

    def capture(self, *arguments: str) -> str:
        """Run `docker compose`; its standard output.

        Raises:
            StackError: it failed; with the end of what it said.
        """
        return self._output([*self._command(), *arguments], f"docker compose {arguments[0]}")

    def replace_process(self, *arguments: str) -> None:
        """Become `docker compose`, so that a Ctrl-C is its own; does not return."""
        os.chdir(self.checkout)
        command = [*self._command(), *arguments]
        os.execve(self._docker, command, self._environment)  # noqa: S606 - no shell

    def last_words(self, container: Container) -> str:
        """The end of a container's log."""
        command = [self._docker, "container", "logs", "--tail", str(_LINES), container.name]
        return capture(command, self.checkout, environment=self._environment).strip()

    def containers(self) -> list[Container]:
        """Every container of the project, those that have ended too."""
        filters = (
            f"label={_LABEL_PREFIX}.project={self.project}",
            f"label={_LABEL_PREFIX}.oneoff=False",
        )
        options = [word for each in filters for word in ("--filter", each)]
        listing = [self._docker, "container", "ls", "--all", "--quiet", *options]
        ids = self._output(listing, "docker container ls").split()
        if not ids:
            return []
        inspecting = [self._docker, "container", "inspect", *ids]
        found = json.loads(self._output(inspecting, "docker container inspect"))
        return [_container(each) for each in found]

    def _command(self) -> list[str]:
        return [self._docker, "compose", "--project-name", self.project, *self._files]

    def _output(self, command: Sequence[str], name: str) -> str:
        done = subprocess.run(  # noqa: S603  (an argument list of ours)
            command,
            check=False,
            cwd=self.checkout,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            said = "\n".join(done.stderr.strip().splitlines()[-_LINES:])
            raise StackError(f"{name} failed:\n{said}")
        return done.stdout


def _require_docker(checkout: Path) -> str:
    docker = shutil.which("docker")
    if docker is None:
        raise StackError("docker is missing; without it: TASKFLOW_STACK=local make up")
    found = subprocess.run(  # noqa: S603  (a fixed argument list)
        [docker, "compose", "version"], check=False, cwd=checkout, capture_output=True
    )
    if found.returncode != 0:
        raise StackError(
            "docker has no Compose: install docker-compose-plugin (docker-compose-v2 on Ubuntu),"
            " or do without Docker: TASKFLOW_STACK=local make up"
        )
    return docker


def _usable_values(path: Path) -> dict[str, str]:
    """Every setting of .env; none where it is missing or malformed.

    What runs is found by the project's name, and is stopped without settings as well.
    """
    try:
        return env_file.read(path)
    except StackError:
        return {}


def _stop_grace_period(values: Mapping[str, str]) -> str:
    """How long a consumer gets between TERM and KILL: its own grace, and time to hang up."""
    try:
        grace = float(values.get("TASKFLOW_SHUTDOWN_GRACE_SECONDS") or _DEFAULT_GRACE_SECONDS)
    except ValueError:
        grace = _DEFAULT_GRACE_SECONDS
    return f"{math.ceil(grace) + _STOP_MARGIN_SECONDS}s"


def _digest(values: Mapping[str, str], compose_file: Path) -> str:
    """Another one after any change of .env or of the Compose file."""
    digest = hashlib.sha256(compose_file.read_bytes())
    digest.update(json.dumps(sorted(values.items())).encode())
    return digest.hexdigest()[:16]


def _container(inspected: Mapping[str, Any]) -> Container:
    state, labels = inspected["State"], inspected["Config"]["Labels"]
    return Container(
        name=inspected["Name"].lstrip("/"),
        service=labels[f"{_LABEL_PREFIX}.service"],
        status=state["Status"],
        health=state["Health"]["Status"] if state.get("Health") else None,
        exit_code=int(state["ExitCode"]),
        restarts=int(inspected["RestartCount"]),
        settings_digest=labels.get(SETTINGS_LABEL, ""),
    )
