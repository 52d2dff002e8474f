"""The commands of `make` with Docker Compose, on a docker command without an engine."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow_local import docker_stack, env_file
from taskflow_local.__main__ import main
from taskflow_local.compose import Compose
from taskflow_local.ports import choose_free

Containers = Callable[[], dict[str, int]]
Commands = Callable[[], list[str]]
State = Callable[[], dict[str, Any]]


def test_a_life_with_docker(
    docker_checkout: Path,
    containers: Containers,
    commands: Commands,
    docker_state: State,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["up"]) == 0
    said = capsys.readouterr().out
    assert "started: postgres, rabbitmq, redis, minio, api, consumer, scheduler\n" in said
    values = env_file.read(docker_checkout / ".env")
    assert f"curl -s http://127.0.0.1:{values['TASKFLOW_API_PORT']}/api/v1/jobs" in said
    assert f"http://127.0.0.1:{values['TASKFLOW_S3_CONSOLE_PORT']}" in said
    assert values["TASKFLOW_API_KEY"] not in said
    assert commands() == ["build", "rm", "up"]
    running = containers()
    assert {"api-1", "scheduler-1", "scheduler-2", "migrate-1"} <= set(running)

    assert main(["up"]) == 0
    assert "everything runs already" in capsys.readouterr().out
    assert commands() == ["build", "rm", "up"]
    assert containers() == running

    assert main(["ps"]) == 0
    assert capsys.readouterr().out == "ps of\n"
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "stopped\n"
    assert containers() == {}
    assert "volumes_deleted" not in docker_state()
    assert main(["clean"]) == 0
    assert "nothing was running\nthe data is deleted" in capsys.readouterr().out
    assert docker_state()["volumes_deleted"]
    assert env_file.read(docker_checkout / ".env") == values


def test_only_what_is_missing_is_started(
    docker_checkout: Path, containers: Containers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up"]) == 0
    before = containers()
    compose = Compose(docker_checkout)
    compose.capture("rm", "--force", "--stop", "consumer")
    capsys.readouterr()
    assert main(["up"]) == 0
    assert "started: consumer\n" in capsys.readouterr().out
    after = containers()
    one_shots = {f"{name}-1" for name in docker_stack.ONE_SHOTS}
    changed = {name for name, number in after.items() if before[name] != number}
    assert changed == {"consumer-1", *one_shots}


def test_the_servers_alone(
    docker_checkout: Path,
    containers: Containers,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    migrated: list[Path] = []
    monkeypatch.setattr("taskflow_local.lifecycle.migrate", migrated.append)
    assert main(["infra-up"]) == 0
    assert capsys.readouterr().out.endswith("started: postgres, rabbitmq, redis, minio\n")
    assert set(containers()) == {
        *(f"{name}-1" for name in docker_stack.SERVERS),
        "postgres-setup-1",
    }
    assert "build" not in commands()
    assert main(["infra-up"]) == 0
    assert capsys.readouterr().out == "the servers run already\n"
    assert migrated == [docker_checkout, docker_checkout]


def test_what_runs_keeps_its_settings(
    docker_checkout: Path,
    containers: Containers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["up"]) == 0
    running = containers()
    monkeypatch.setenv("TASKFLOW_REDIS_PORT", str(choose_free(1)[0]))
    assert main(["up"]) == 1
    assert "what runs can't change its port" in capsys.readouterr().err
    monkeypatch.delenv("TASKFLOW_REDIS_PORT")
    with (docker_checkout / ".env").open("a") as file:
        file.write("TASKFLOW_CONCURRENCY=3\n")
    assert main(["up"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("these run with other settings than the present ones: api, consumer,")
    assert containers() == running
    assert main(["down"]) == 0
    assert main(["up"]) == 0


def test_without_a_usable_env_file_it_still_stops(
    docker_checkout: Path, containers: Containers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up"]) == 0
    (docker_checkout / ".env").write_text("not a setting\n")
    assert main(["down"]) == 0
    assert capsys.readouterr().out.endswith("stopped\n")
    assert containers() == {}


def test_before_the_first_start_nothing_runs(
    docker_checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, words in {"ps": "nothing runs", "down": "nothing was running"}.items():
        assert main([command]) == 0
        assert words in capsys.readouterr().out
    assert main(["logs"]) == 1
    assert "no logs yet" in capsys.readouterr().err


def test_logs_are_followed_by_compose_itself(
    docker_checkout: Path, fake_docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up"]) == 0
    assert main(["logs", "nonsense"]) == 1
    assert "there are: api, consumer, migrate" in capsys.readouterr().err
    command = [sys.executable, "-m", "taskflow_local", "logs", "api"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "logs of 20 api\n"
    assert (fake_docker / "journal").read_text().endswith("logs --follow --tail 20 api\n")
