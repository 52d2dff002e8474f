"""What a stack runs on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from taskflow_local.engine import Engine, choose
from taskflow_local.errors import StackError

DockerAnswers = Callable[[str], None]


@pytest.fixture
def compose_file(tmp_path: Path) -> Path:
    path = tmp_path / "compose.yaml"
    path.touch()
    return path


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DockerAnswers:
    """Put a docker command on the PATH that does what the given shell script says."""

    def install(script: str) -> None:
        path = tmp_path / "docker"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


def test_docker_is_chosen_where_an_engine_answers(
    compose_file: Path, docker: DockerAnswers
) -> None:
    docker("echo 28.2.2")
    assert choose({}, compose_file, local_runs=False) is Engine.DOCKER


@pytest.mark.parametrize("script", ["exit 1", "echo", "echo 28.2.2; exit 1"])
def test_a_docker_command_without_an_engine_is_none(
    compose_file: Path, docker: DockerAnswers, script: str
) -> None:
    docker(script)
    assert choose({}, compose_file, local_runs=False) is Engine.LOCAL


def test_without_docker_it_is_this_machine(compose_file: Path, docker: DockerAnswers) -> None:
    assert choose({}, compose_file, local_runs=False) is Engine.LOCAL


def test_what_runs_stays_where_it_is(compose_file: Path, docker: DockerAnswers) -> None:
    docker("echo 28.2.2")
    assert choose({}, compose_file, local_runs=True) is Engine.LOCAL


@pytest.mark.parametrize("engine", list(Engine))
@pytest.mark.parametrize("local_runs", [True, False])
def test_the_variable_overrides_everything(
    compose_file: Path, engine: Engine, local_runs: bool
) -> None:
    environment = {"TASKFLOW_STACK": engine.value}
    assert choose(environment, compose_file, local_runs=local_runs) is engine


def test_another_value_is_refused(compose_file: Path) -> None:
    with pytest.raises(StackError, match="local or docker"):
        choose({"TASKFLOW_STACK": "podman"}, compose_file, local_runs=False)


def test_docker_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="there is no"):
        choose({"TASKFLOW_STACK": "docker"}, tmp_path / "compose.yaml", local_runs=False)
