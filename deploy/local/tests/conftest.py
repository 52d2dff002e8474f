"""A docker command without an engine, and a checkout for it."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskflow_local import env_file
from taskflow_local.__main__ import main
from taskflow_local.ports import choose_free

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with its state; it is the only docker on the PATH."""
    folder = tmp_path / "docker"
    folder.mkdir()
    services = yaml.safe_load((CHECKOUT / "deploy" / "compose.yaml").read_text())["services"]
    (folder / "services.json").write_text(json.dumps(services))
    # Bare, for it starts a dozen times in a test.
    python = [sys.executable, "-S", "-E"]
    command = shlex.join([*python, str(Path(__file__).with_name("fake_docker.py"))])
    (folder / "docker").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_DOCKER", str(folder))
    yield folder
    subprocess.run(
        [folder / "docker", "compose", "--project-name", "any", "--file", "-", "down"], check=True
    )


@pytest.fixture
def docker_state(fake_docker: Path) -> Callable[[], dict[str, Any]]:
    """What the fake keeps: its containers, and whether volumes were deleted."""

    def read() -> dict[str, Any]:
        path = fake_docker / "state.json"
        return dict(json.loads(path.read_text())) if path.exists() else {"containers": {}}

    return read


@pytest.fixture
def containers(docker_state: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, int]]:
    """Service and replica to a number that no other container ever has."""

    def read() -> dict[str, int]:
        found = docker_state()["containers"].items()
        return {name.split("-", 2)[2]: each["number"] for name, each in found}

    return read


@pytest.fixture
def commands(fake_docker: Path) -> Callable[[], list[str]]:
    """Subcommands of `docker compose`, in the order in which they were run."""

    def read() -> list[str]:
        path = fake_docker / "journal"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture
def docker_checkout(
    tmp_path: Path, fake_docker: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A checkout whose ports are free."""
    folder = tmp_path / "checkout"
    (folder / "deploy").mkdir(parents=True)
    shutil.copy(CHECKOUT / ".env.example", folder)
    shutil.copy(CHECKOUT / "deploy" / "compose.yaml", folder / "deploy")
    monkeypatch.chdir(folder)
    template = env_file.read(CHECKOUT / ".env.example")
    for name in template:
        monkeypatch.delenv(name, raising=False)
    names = [name for name in template if name.endswith("_PORT")]
    for name, port in zip(names, choose_free(len(names)), strict=True):
        monkeypatch.setenv(name, str(port))
    monkeypatch.setenv("TASKFLOW_STACK", "docker")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield folder
    for number, handler in before.items():
        signal.signal(number, handler)
    assert main(["clean"]) == 0
