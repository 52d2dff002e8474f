"""One checkout's project of Docker Compose."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow_local.__main__ import main
from taskflow_local.compose import Compose

State = Callable[[], dict[str, Any]]


@pytest.mark.parametrize(("setting", "period"), [("", "45s"), ("90", "105s"), ("0.5", "16s")])
def test_a_consumer_gets_its_grace_to_stop(
    docker_checkout: Path, docker_state: State, setting: str, period: str
) -> None:
    shutil.copy(docker_checkout / ".env.example", docker_checkout / ".env")
    with (docker_checkout / ".env").open("a") as file:
        file.write(f"TASKFLOW_SHUTDOWN_GRACE_SECONDS={setting}\n")
    assert main(["up"]) == 0
    consumer = next(
        each for each in docker_state()["containers"].values() if each["service"] == "consumer"
    )
    assert consumer["grace"] == period


def test_each_checkout_has_a_project_of_its_own(docker_checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(docker_checkout, other)
    assert (
        Compose(docker_checkout).project
        == Compose(docker_checkout).project
        != Compose(other).project
    )


@pytest.mark.parametrize("setting", ["TASKFLOW_REDIS_PASSWORD=other", "TASKFLOW_HANDLERS=mine"])
def test_another_setting_or_another_file_is_another_digest(
    docker_checkout: Path, setting: str
) -> None:
    shutil.copy(docker_checkout / ".env.example", docker_checkout / ".env")
    first = Compose(docker_checkout).settings_digest
    with (docker_checkout / ".env").open("a") as file:
        file.write("# a comment\n")
    assert Compose(docker_checkout).settings_digest == first
    with (docker_checkout / ".env").open("a") as file:
        file.write(f"{setting}\n")
    second = Compose(docker_checkout).settings_digest
    with (docker_checkout / "deploy" / "compose.yaml").open("a") as file:
        file.write("# a comment\n")
    assert len({first, second, Compose(docker_checkout).settings_digest}) == 3


def test_docker_without_compose_is_said(
    docker_checkout: Path, fake_docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fake_docker / "no-compose").touch()
    assert main(["up"]) == 1
    assert "docker has no Compose" in capsys.readouterr().err
    (fake_docker / "no-compose").unlink()


def test_no_docker_at_all_is_said(
    docker_checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(docker_checkout))
        assert main(["up"]) == 1
    assert "docker is missing" in capsys.readouterr().err
