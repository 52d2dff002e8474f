"""The commands of `make` with Docker Compose, on a docker command that keeps its containers in a file."""

import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow_local import docker_stack, env_file
from taskflow_local.__main__ import main
from taskflow_local.compose import Compose
from taskflow_local.ports import LOOPBACK, choose_free
from taskflow_local.stack_settings import PREFIX

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the fake's state; it is the only docker on the PATH."""
    folder = tmp_path / "docker"
    folder.mkdir()
    command = shlex.join([sys.executable, str(Path(__file__).with_name("fake_docker.py"))])
    (folder / "docker").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_DOCKER", str(folder))
    yield folder
    subprocess.run(
        [folder / "docker", "compose", "--project-name", "any", "--file", "-", "down"], check=True
    )


@pytest.fixture
def checkout(tmp_path: Path, docker: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
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


def state(docker: Path) -> dict[str, Any]:
    path = docker / "state.json"
    return dict(json.loads(path.read_text())) if path.exists() else {"containers": {}}


def containers(docker: Path) -> dict[str, int]:
    """Service and replica to a number that no other container ever has."""
    found = state(docker)["containers"].items()
    return {name.split("-", 2)[2]: each["number"] for name, each in found}


def commands(docker: Path) -> list[str]:
    path = docker / "journal"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_life_with_docker(
    checkout: Path, docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up"]) == 0
    said = capsys.readouterr().out
    assert "started: postgres, rabbitmq, redis, minio, api, consumer, scheduler\n" in said
    values = env_file.read(checkout / ".env")
    assert f"curl -s http://127.0.0.1:{values['TASKFLOW_API_PORT']}/api/v1/jobs" in said
    assert f"http://127.0.0.1:{values['TASKFLOW_S3_CONSOLE_PORT']}" in said
    assert values["TASKFLOW_API_KEY"] not in said
    assert commands(docker) == ["build", "rm", "up"]
    running = containers(docker)
    assert {"api-1", "scheduler-1", "scheduler-2", "migrate-1"} <= set(running)

    assert main(["up"]) == 0
    assert "everything runs already" in capsys.readouterr().out
    assert commands(docker) == ["build", "rm", "up"]
    assert containers(docker) == running

    assert main(["ps"]) == 0
    assert capsys.readouterr().out == "ps of\n"
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "stopped\n"
    assert containers(docker) == {}
    assert "volumes_deleted" not in state(docker)
    assert main(["clean"]) == 0
    assert "nothing was running\nthe data is deleted" in capsys.readouterr().out
    assert state(docker)["volumes_deleted"]
    assert env_file.read(checkout / ".env") == values


def test_only_what_is_missing_is_started(
    checkout: Path, docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infra-up"]) == 1  # the servers are only played
    assert "alembic" in capsys.readouterr().err
    assert main(["up"]) == 0
    before = containers(docker)
    compose = Compose(checkout)
    compose.capture("rm", "--force", "--stop", "consumer")
    capsys.readouterr()
    assert main(["up"]) == 0
    assert "started: consumer\n" in capsys.readouterr().out
    after = containers(docker)
    one_shots = {f"{name}-1" for name in docker_stack.ONE_SHOTS}
    changed = {name for name, number in after.items() if before[name] != number}
    assert changed == {"consumer-1", *one_shots}


def test_the_servers_alone(
    checkout: Path,
    docker: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    migrated: list[Path] = []
    monkeypatch.setattr("taskflow_local.lifecycle.migrate", migrated.append)
    assert main(["infra-up"]) == 0
    assert capsys.readouterr().out.endswith("started: postgres, rabbitmq, redis, minio\n")
    assert set(containers(docker)) == {
        *(f"{name}-1" for name in docker_stack.SERVERS),
        "postgres-setup-1",
    }
    assert "build" not in commands(docker)
    assert main(["infra-up"]) == 0
    assert capsys.readouterr().out == "the servers run already\n"
    assert migrated == [checkout, checkout]


@pytest.mark.parametrize("service", ["consumer", "rabbitmq", "migrate", "postgres-setup"])
def test_a_service_that_fails_is_shown_and_nothing_stays(
    checkout: Path,
    docker: Path,
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
    assert containers(docker) == {}


def test_what_ran_before_a_failure_stays(
    checkout: Path, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["up"]) == 0
    Compose(checkout).capture("rm", "--force", "--stop", "scheduler")
    before = containers(docker)
    monkeypatch.setenv("FAKE_DOCKER_BROKEN", "scheduler")
    assert main(["up"]) == 1
    one_shots = {f"{name}-1" for name in docker_stack.ONE_SHOTS}
    assert {name for name in before if name not in one_shots} == set(containers(docker))


def test_a_service_that_never_becomes_ready_is_named(
    checkout: Path,
    docker: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(docker_stack, "_READY_SECONDS", 0)
    monkeypatch.setenv("FAKE_DOCKER_SLOW", "consumer")
    assert main(["up"]) == 1
    assert capsys.readouterr().err == "not ready after 0 seconds: consumer\n"
    assert containers(docker) == {}


def test_an_interrupt_leaves_nothing_behind(
    checkout: Path, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(port: int) -> bool:
        del port
        raise KeyboardInterrupt

    monkeypatch.setattr(docker_stack, "is_green", interrupted)
    assert main(["up"]) == 130
    assert containers(docker) == {}


def test_a_taken_port_is_named_before_anything_starts(
    checkout: Path,
    docker: Path,
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
    assert not {"build", "up"} & set(commands(docker))


def test_what_runs_keeps_its_settings(
    checkout: Path,
    docker: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["up"]) == 0
    running = containers(docker)
    monkeypatch.setenv("TASKFLOW_REDIS_PORT", str(choose_free(1)[0]))
    assert main(["up"]) == 1
    assert "what runs can't change its port" in capsys.readouterr().err
    monkeypatch.delenv("TASKFLOW_REDIS_PORT")
    with (checkout / ".env").open("a") as file:
        file.write("TASKFLOW_CONCURRENCY=3\n")
    assert main(["up"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("these run with other settings than the present ones: api, consumer,")
    assert containers(docker) == running
    assert main(["down"]) == 0
    assert main(["up"]) == 0


@pytest.mark.parametrize(("setting", "period"), [("", "45s"), ("90", "105s"), ("0.5", "16s")])
def test_a_consumer_gets_its_grace_to_stop(
    checkout: Path, docker: Path, setting: str, period: str
) -> None:
    shutil.copy(checkout / ".env.example", checkout / ".env")
    with (checkout / ".env").open("a") as file:
        file.write(f"TASKFLOW_SHUTDOWN_GRACE_SECONDS={setting}\n")
    assert main(["up"]) == 0
    consumer = next(
        each for each in state(docker)["containers"].values() if each["service"] == "consumer"
    )
    assert consumer["grace"] == period


def test_each_checkout_has_a_project_of_its_own(checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkout, other)
    assert Compose(checkout).project == Compose(checkout).project != Compose(other).project


@pytest.mark.parametrize("setting", ["TASKFLOW_REDIS_PASSWORD=other", "TASKFLOW_HANDLERS=mine"])
def test_another_setting_or_another_file_is_another_digest(checkout: Path, setting: str) -> None:
    shutil.copy(checkout / ".env.example", checkout / ".env")
    first = Compose(checkout).settings_digest
    with (checkout / ".env").open("a") as file:
        file.write("# a comment\n")
    assert Compose(checkout).settings_digest == first
    with (checkout / ".env").open("a") as file:
        file.write(f"{setting}\n")
    second = Compose(checkout).settings_digest
    with (checkout / "deploy" / "compose.yaml").open("a") as file:
        file.write("# a comment\n")
    assert len({first, second, Compose(checkout).settings_digest}) == 3


def test_without_a_usable_env_file_it_still_stops(
    checkout: Path, docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up"]) == 0
    (checkout / ".env").write_text("not a setting\n")
    assert main(["down"]) == 0
    assert capsys.readouterr().out.endswith("stopped\n")
    assert containers(docker) == {}


def test_before_the_first_start_nothing_runs(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, words in {"ps": "nothing runs", "down": "nothing was running"}.items():
        assert main([command]) == 0
        assert words in capsys.readouterr().out
    assert main(["logs"]) == 1
    assert "no logs yet" in capsys.readouterr().err


def test_logs_are_followed_by_compose_itself(
    checkout: Path, docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up"]) == 0
    assert main(["logs", "nonsense"]) == 1
    assert "there are: api, consumer, migrate" in capsys.readouterr().err
    command = [sys.executable, "-m", "taskflow_local", "logs", "api"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "logs of 20 api\n"
    assert (docker / "journal").read_text().endswith("logs --follow --tail 20 api\n")


def test_docker_without_compose_is_said(
    checkout: Path, docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (docker / "no-compose").touch()
    assert main(["up"]) == 1
    assert "docker has no Compose" in capsys.readouterr().err
    (docker / "no-compose").unlink()


def test_no_docker_at_all_is_said(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(checkout))
        assert main(["up"]) == 1
    assert "docker is missing" in capsys.readouterr().err
