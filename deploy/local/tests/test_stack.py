"""A stack of small programs: started, found again, undone, and stopped without a trace."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from taskflow_local import supervisor_rpc
from taskflow_local.component import Program
from taskflow_local.errors import StackError
from taskflow_local.leftovers import end_leftovers
from taskflow_local.ports import LOOPBACK, Port, accepts_connections, choose_free
from taskflow_local.processes import is_alive
from taskflow_local.stack import Stack

LISTEN = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True:
    listener.accept()[0].close()
"""


@dataclass(frozen=True)
class Listener:
    """Listens on its port; with `script` it does something else."""

    name: str
    directory: Path
    port: int
    script: str = LISTEN
    start_timeout_seconds: float = 20
    stays_up_seconds: int = 0

    def ports(self) -> Sequence[Port]:
        return [Port(self.port, self.name, f"{self.name.upper()}_PORT")]

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "program.py").write_text(self.script)
        with (self.directory / "prepared").open("a") as file:
            file.write(".")

    def programs(self) -> Sequence[Program]:
        command = [sys.executable, str(self.directory / "program.py"), str(self.port)]
        return [
            Program(
                self.name,
                command,
                self.directory,
                stays_up_seconds=self.stays_up_seconds,
                stop_wait_seconds=2,
            )
        ]

    def is_ready(self) -> bool:
        return accepts_connections(self.port)


def listener(directory: Path, name: str, script: str = LISTEN) -> Listener:
    return Listener(name, directory / name, choose_free(1)[0], script)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "stack"
    yield path
    Stack(path).stop()


def pids(stack: Stack) -> dict[str, int]:
    statuses = stack.supervisor.statuses()
    return {name: status.pid for name, status in statuses.items() if status.pid is not None}


def test_what_runs_is_left_alone_and_what_does_not_is_started(directory: Path) -> None:
    one, two = listener(directory, "one"), listener(directory, "two")
    stack = Stack(directory, [one], [two])
    assert stack.start([one, two]) == ["one", "two"]
    before = pids(stack)
    assert stack.start([one, two]) == []
    assert pids(stack) == before

    stack.supervisor.stop(["two"])
    assert not accepts_connections(two.port)
    assert stack.missing([one, two]) == [two]
    assert stack.start([one, two]) == ["two"]
    assert pids(stack)["one"] == before["one"]
    assert (one.directory / "prepared").read_text() == "."


def test_another_view_of_the_same_directory_sees_and_stops_it(directory: Path) -> None:
    one = listener(directory, "one")
    Stack(directory, [one]).start([one])
    other = Stack(directory)
    running = pids(other)["one"]
    assert is_alive(running)
    assert other.stop() is True
    assert not is_alive(running)
    assert other.stop() is False


ENDS = """
import pathlib, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
with open("lives", "a") as lives:
    lives.write(".")
    lives.flush()
    time.sleep(1.5 if lives.tell() <= {ends} else 600)
"""


@pytest.mark.parametrize(("ends", "starts"), [(1, True), (100, False)])
def test_a_program_has_to_stay_up_as_it_is_started(
    directory: Path, ends: int, starts: bool
) -> None:
    one = replace(listener(directory, "one", ENDS.format(ends=ends)), stays_up_seconds=3)
    stack = Stack(directory, [one])
    if starts:
        assert stack.start([one]) == ["one"]
    else:
        with pytest.raises(StackError, match="one does not stay up"):
            stack.start([one])


def test_a_program_that_dies_is_started_again(directory: Path) -> None:
    one = listener(directory, "one")
    stack = Stack(directory, [one])
    stack.start([one])
    first = pids(stack)["one"]
    os.kill(first, signal.SIGKILL)
    # supervisord hears of the death a moment later.
    deadline = time.monotonic() + 15
    while pids(stack).get("one") == first and time.monotonic() < deadline:
        time.sleep(0.05)
    stack.start([one])
    assert pids(stack)["one"] != first


def test_a_component_that_comes_later_joins_what_runs(directory: Path) -> None:
    one, two = listener(directory, "one"), listener(directory, "two")
    Stack(directory, [one]).start([one])
    first = pids(Stack(directory))["one"]
    both = Stack(directory, [one, two])
    assert both.start([one, two]) == ["two"]
    assert pids(both)["one"] == first


def test_a_component_with_other_settings_is_told_apart(directory: Path) -> None:
    one = listener(directory, "one")
    stack = Stack(directory, [one])
    stack.start([one])
    assert stack.supervisor.differing(stack.programs()) == []
    moved = Stack(directory, [Listener("one", one.directory, choose_free(1)[0])])
    assert moved.supervisor.differing(moved.programs()) == ["one"]


def test_a_taken_port_is_told_before_anything_is_started(directory: Path) -> None:
    one = listener(directory, "one")
    stack = Stack(directory, [one])
    with socket.create_server((LOOPBACK, one.port)), pytest.raises(StackError, match="ONE_PORT"):
        stack.require_free_ports([one])
    assert not directory.exists()


def test_ports_of_what_runs_are_its_own(directory: Path) -> None:
    one = listener(directory, "one")
    stack = Stack(directory, [one])
    stack.start([one])
    stack.require_free_ports([one])


def test_a_failure_ends_with_the_log_and_undoes_what_was_started(directory: Path) -> None:
    good = listener(directory, "good")
    bad = listener(directory, "bad", script="raise SystemExit('the reason')")
    stack = Stack(directory, [good, bad])
    with pytest.raises(StackError, match="bad does not stay up") as raised:  # noqa: SIM117
        with stack.undone_on_failure():
            stack.start([good, bad])
    assert str(raised.value).endswith("the reason")
    assert not stack.supervisor.is_running()
    assert not accepts_connections(good.port)


def test_a_failure_leaves_what_ran_before(directory: Path) -> None:
    good, later = listener(directory, "good"), listener(directory, "later")
    bad = listener(directory, "bad", script="raise SystemExit('the reason')")
    stack = Stack(directory, [good], [later, bad])
    stack.start([good])
    with pytest.raises(StackError), stack.undone_on_failure():
        stack.start([later, bad])
    assert stack.supervisor.running() == {"good"}


def test_a_component_that_is_never_ready_is_given_up(directory: Path) -> None:
    slow = Listener(
        "slow",
        directory / "slow",
        choose_free(1)[0],
        script="import time; time.sleep(600)",
        start_timeout_seconds=2,
    )
    stack = Stack(directory, [slow])
    with pytest.raises(StackError, match="slow is not ready after 2 seconds"):
        stack.start([slow])


def test_processes_of_a_killed_supervisord_are_found_and_ended(directory: Path) -> None:
    one = listener(directory, "one")
    stack = Stack(directory, [one])
    stack.start([one])
    left = pids(stack)["one"]
    os.kill(int(stack.supervisor.files.pid.read_text()), signal.SIGKILL)
    assert is_alive(left)
    assert stack.stop() is True
    assert not is_alive(left)


def test_a_start_after_a_killed_supervisord_begins_anew(directory: Path) -> None:
    one = listener(directory, "one")
    stack = Stack(directory, [one])
    stack.start([one])
    left = pids(stack)["one"]
    os.kill(int(stack.supervisor.files.pid.read_text()), signal.SIGKILL)
    stack.require_free_ports([one])
    assert not is_alive(left)
    assert stack.start([one]) == ["one"]


def test_a_process_that_ignores_its_signal_is_killed(directory: Path) -> None:
    stubborn = listener(
        directory,
        "one",
        script="import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LISTEN,
    )
    stack = Stack(directory, [stubborn])
    stack.start([stubborn])
    running = pids(stack)["one"]
    stack.stop()
    assert not is_alive(running)


def test_nobody_elses_processes_are_ended(directory: Path) -> None:
    directory.mkdir()
    assert end_leftovers(directory) is False


def test_a_path_too_long_for_a_socket_still_works(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    one = listener(directory, "one")
    stack = Stack(directory, [one])
    try:
        stack.start([one])
        assert stack.supervisor.running() == {"one"}
    finally:
        assert stack.stop() is True


def test_another_users_stack_is_not_taken_for_a_stopped_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(supervisor_rpc, "call", refuse)
        with pytest.raises(StackError, match="another user"):
            Stack(directory).supervisor.running()
