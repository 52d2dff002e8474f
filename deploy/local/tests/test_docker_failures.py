"""What `make up` with Docker Compose says and leaves when something goes wrong."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from taskflow_local import docker_stack
from taskflow_local.__main__ import main
from taskflow_local.compose import Compose
from taskflow_local.ports import LOOPBACK, choose_free

Containers = Callable[[], dict[str, int]]
Commands = Callable[[], list[str]]


@pytest.mark.parametrize("service", ["consumer", "rabbitmq", "migrate", "postgres-setup"])
def test_a_service_that_fails_is_shown_and_nothing_stays(
    docker_checkout: Path,
    containers: Containers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    service: str,
) -> None:
    monkeypatch.setenv("FAKE_DOCKER_BROKEN", service)
    assert main(["up"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{service} does not run (")
    assert error.rstrip().endswith(f"-{service}-1")
    assert "the last words of" in error
    assert containers() == {}


def test_what_ran_before_a_failure_stays(
    docker_checkout: Path, containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["up"]) == 0
    Compose(docker_checkout).capture("rm", "--force", "--stop", "scheduler")
    before = containers()
    monkeypatch.setenv("FAKE_DOCKER_BROKEN", "scheduler")
    assert main(["up"]) == 1
    one_shots = {f"{name}-1" for name in docker_stack.ONE_SHOTS}
    assert {name for name in before if name not in one_shots} == set(containers())


def test_a_service_that_never_becomes_ready_is_named(
    docker_checkout: Path,
    containers: Containers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(docker_stack, "_READY_SECONDS", 0)
    monkeypatch.setenv("FAKE_DOCKER_SLOW", "consumer")
    assert main(["up"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("consumer is not ready after")
    assert "(running, starting); the end of its log:\nthe last words of" in error
    assert containers() == {}


def test_an_api_that_is_never_green_is_shown(
    docker_checkout: Path,
    containers: Containers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(docker_stack, "_READY_SECONDS", 0)
    monkeypatch.setattr(docker_stack, "is_green", lambda _: False)
    assert main(["up"]) == 1
    assert f"on port {os.environ['TASKFLOW_API_PORT']} (running" in capsys.readouterr().err
    assert containers() == {}


def test_what_came_back_after_many_restarts_has_not_failed(
    docker_checkout: Path, fake_docker: Path
) -> None:
    assert main(["up"]) == 0
    path = fake_docker / "state.json"
    path.write_text(path.read_text().replace('"RestartCount": 0', '"RestartCount": 7'))
    assert main(["up"]) == 0


def test_an_interrupt_leaves_nothing_behind(
    docker_checkout: Path, containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(port: int) -> bool:
        del port
        raise KeyboardInterrupt

    monkeypatch.setattr(docker_stack, "is_green", interrupted)
    assert main(["up"]) == 130
    assert containers() == {}


def test_a_taken_port_is_named_before_anything_starts(
    docker_checkout: Path,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = choose_free(1)[0]
    monkeypatch.setenv("TASKFLOW_S3_CONSOLE_PORT", str(port))
    with socket.create_server((LOOPBACK, port)):
        assert main(["up"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"port {port} (MinIO's console) is taken")
    assert "TASKFLOW_S3_CONSOLE_PORT=" in error
    assert len(error.splitlines()) == 1
    assert not {"build", "up"} & set(commands())
