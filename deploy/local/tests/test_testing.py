"""A command that runs against servers for tests: given ones, kept ones, its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_local import throwaway
from taskflow_local.__main__ import main
from taskflow_local.processes import is_alive
from taskflow_local.stack import Stack
from taskflow_local.testing import kept_directory

NAMES = (
    "DATABASE_URL",
    "AMQP_URL",
    "RABBITMQ_MANAGEMENT_URL",
    "REDIS_URL",
    "S3_ENDPOINT",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
)
SHOW = "import os; print(*sorted(n for n in os.environ if n.startswith('TASKFLOW_TEST_')))"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every server named in the environment."""
    variables = {f"TASKFLOW_TEST_{name}": f"given-{name}" for name in NAMES}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)
    throwaway.stop(kept_directory(tmp_path))


def run(*words: str, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "taskflow_local", "test", "--", sys.executable, "-c", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def test_given_servers_are_used_and_none_started(checkout: Path, given: dict[str, str]) -> None:
    with run("import os; print(os.environ['TASKFLOW_TEST_REDIS_URL'])") as process:
        output, _ = process.communicate(timeout=60)
    assert output.split() == [given["TASKFLOW_TEST_REDIS_URL"]]
    assert process.returncode == 0
    assert not list(checkout.glob(".taskflow/test-*/*"))


def test_the_exit_code_is_the_commands(checkout: Path, given: dict[str, str]) -> None:
    with run("raise SystemExit(3)") as process:
        process.wait(timeout=60)
    assert process.returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_first(
    checkout: Path, given: dict[str, str], number: signal.Signals
) -> None:
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with run(script) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(number)
        process.wait(timeout=60)
    assert process.returncode == 128 + number
    assert not is_alive(child)


def test_a_ctrl_c_reaches_the_command_once(checkout: Path, given: dict[str, str]) -> None:
    script = """
import time
for seconds in (600, 1):
    try:
        print("sleeping", flush=True)
        time.sleep(seconds)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    with run(script, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert output.split() == ["interrupted", "sleeping"]
    assert process.returncode == 0


def test_directories_of_dead_owners_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    (tmp_path / f"test-{dead.pid}").mkdir()
    (tmp_path / f"test-{os.getppid()}").mkdir()
    (tmp_path / "test-other").mkdir()
    assert throwaway.own_directory(tmp_path) == tmp_path / f"test-{os.getpid()}"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"test-{os.getppid()}", "test-other"}


def test_without_servers_there_are_no_variables(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test-env"]) == 1
    assert "make test-up" in capsys.readouterr().err
    assert main(["test-down"]) == 0
    assert "no servers for tests were running" in capsys.readouterr().out


@pytest.mark.slow
def test_kept_servers_are_started_once_and_found(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"TASKFLOW_TEST_{name}", raising=False)
    monkeypatch.setenv("TASKFLOW_TEST_REDIS_URL", "redis://given")
    assert main(["test-up"]) == 0
    supervisor = Stack(kept_directory(checkout)).supervisor
    pids = {name: status.pid for name, status in supervisor.statuses().items()}
    assert set(pids) == {"postgres", "epmd", "rabbitmq", "s3"}

    assert main(["test-up"]) == 0
    assert "run already" in capsys.readouterr().out
    assert {name: status.pid for name, status in supervisor.statuses().items()} == pids

    assert main(["test-env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES) - 1
    assert all(line.startswith("export TASKFLOW_TEST_") for line in lines)

    with run(SHOW) as process:
        output, _ = process.communicate(timeout=60)
    assert output.split() == sorted(f"TASKFLOW_TEST_{name}" for name in NAMES)
    assert {name: status.pid for name, status in supervisor.statuses().items()} == pids

    assert main(["test-down"]) == 0
    assert not any(is_alive(pid) for pid in pids.values() if pid is not None)
    assert not kept_directory(checkout).exists()


@pytest.mark.slow
def test_own_servers_end_with_the_command(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    # PostgreSQL alone, the quickest of them.
    monkeypatch.delenv("TASKFLOW_TEST_DATABASE_URL")
    with run("import os; print(os.environ['TASKFLOW_TEST_DATABASE_URL'])") as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert output.startswith("postgresql://taskflow:")
    assert not list(checkout.glob(".taskflow/test-*"))
