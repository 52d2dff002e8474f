"""One supervisord for one stack: started, asked, and stopped."""

import contextlib
import hashlib
import http.client
import os
import sys
import tempfile
import time
import xmlrpc.client  # nosec B411 # only our own supervisord answers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskflow_local import supervisor_rpc
from taskflow_local.command import capture
from taskflow_local.component import Program
from taskflow_local.errors import StackError
from taskflow_local.private_file import write_private
from taskflow_local.processes import is_alive
from taskflow_local.supervisor_config import SupervisorFiles, program_sections, render

MARKER = "TASKFLOW_STACK_DIRECTORY"
"""In the environment of every process of a stack, so that those which outlive a killed supervisord
can be found."""

# sockaddr_un holds 108 bytes, and supervisord first binds a name a little longer than the last.
_LONGEST_SOCKET_PATH = 90
_POLL_SECONDS = 0.05
_START_SECONDS = 10
_STOP_SECONDS = 120


@dataclass(frozen=True)
class ProgramStatus:
    """What supervisord says of a program; `uptime_seconds` is None while it does not run."""

    name: str
    state: str
    pid: int | None
    uptime_seconds: int | None

    @property
    def is_running(self) -> bool:
        """Whether it runs, or supervisord is busy starting it."""
        return self.state in {"STARTING", "RUNNING", "BACKOFF"}


class Supervisor:
    """The supervisord whose files live in `directory`, whether it runs or not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = SupervisorFiles(directory, _socket_path(directory))

    def is_running(self) -> bool:
        """Whether it answers.

        Raises:
            StackError: another user runs it.
        """
        try:
            self._call("getState")
        except PermissionError:
            raise StackError(f"{self.directory} is another user's; do this as that user") from None
        except (OSError, http.client.HTTPException):
            return False
        return True

    def statuses(self) -> dict[str, ProgramStatus]:
        """Status by program name; empty while supervisord does not run."""
        if not self.is_running():
            return {}
        return {row["name"]: _status(row) for row in self._call("getAllProcessInfo")}

    def running(self) -> set[str]:
        """Names of the programs that run."""
        return {name for name, status in self.statuses().items() if status.is_running}

    def launch(self, programs: Sequence[Program]) -> None:
        """Start supervisord itself, knowing these programs, none of them started.

        Raises:
            StackError: it did not start.
        """
        self._write_config(programs)
        self.files.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        supervisord = [sys.executable, "-m", "supervisor.supervisord"]
        environment = os.environ | {MARKER: str(self.directory)}
        capture(
            [*supervisord, "-c", str(self.files.config)], self.directory, environment=environment
        )
        _wait_until(self.is_running, _START_SECONDS, "supervisord started, but does not answer")

    def reload(self, programs: Sequence[Program]) -> None:
        """Make a running supervisord know these programs; what runs keeps the settings it has."""
        self._write_config(programs)
        added, changed, removed = self._call("reloadConfig")[0]
        running = self.running()
        for name in {*changed, *removed} - running:
            self._call("removeProcessGroup", name)
        for name in {*changed, *added} - running:
            self._call("addProcessGroup", name)

    def differing(self, programs: Sequence[Program]) -> list[str]:
        """Those of these programs that run with other settings than these."""
        if not (running := self.running()):
            return []
        before = program_sections(self.files.config.read_text())
        after = program_sections(render(self.files, programs))
        return [name for name in after if name in running and before.get(name) != after[name]]

    def start(self, name: str) -> None:
        """Start one program without waiting for it to become ready."""
        self._call("startProcess", name, False)

    def stop(self, names: Iterable[str]) -> None:
        """Stop programs together and wait until all have ended; others are left alone."""
        pending = self.running() & set(names)
        for name in pending:
            with contextlib.suppress(xmlrpc.client.Fault):  # it has just ended by itself
                self._call("stopProcess", name, False)
        # This ends: supervisord sends KILL when a program's stop_wait_seconds are over.
        while pending & {name for name, status in self.statuses().items() if status.pid}:
            time.sleep(_POLL_SECONDS)

    def shutdown(self) -> None:
        """Stop whatever still runs, then supervisord itself, and wait until it is gone."""
        pid = int(self.files.pid.read_text())
        self._call("shutdown")
        message = f"supervisord (pid {pid}) was told to stop, but does not end"
        _wait_until(lambda: not is_alive(pid), _STOP_SECONDS, message)

    def _call(self, method: str, *arguments: object) -> Any:
        return supervisor_rpc.call(self.files.socket, method, *arguments)

    def _write_config(self, programs: Sequence[Program]) -> None:
        self.files.log("supervisord").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.files.config, render(self.files, programs))


def _status(row: Mapping[str, Any]) -> ProgramStatus:
    pid = int(row["pid"]) or None
    uptime = int(row["now"]) - int(row["start"]) if pid else None
    return ProgramStatus(str(row["name"]), str(row["statename"]), pid, uptime)


def _socket_path(directory: Path) -> Path:
    path = directory / "supervisor.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"taskflow-{os.geteuid()}-{digest}" / path.name


def _wait_until(condition: Callable[[], bool], seconds: float, failure: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"{failure} (waited {seconds:.0f} seconds)")
        time.sleep(_POLL_SECONDS)
