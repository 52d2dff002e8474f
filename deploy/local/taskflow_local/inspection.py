"""`make ps` and `make logs`."""

import os
import shutil
from pathlib import Path

from taskflow_local import env_file
from taskflow_local.component import Component
from taskflow_local.console import say
from taskflow_local.errors import StackError
from taskflow_local.local_stack import build_stack, stack_directory
from taskflow_local.stack import Stack
from taskflow_local.stack_settings import load_stack_settings
from taskflow_local.supervisor import ProgramStatus

_LINES_OF_EACH = 20


def show_processes(checkout: Path) -> None:
    """A table of every program: state, pid, uptime, ports."""
    statuses = Stack(stack_directory(checkout)).supervisor.statuses()
    if not statuses:
        say("nothing runs; `make up` starts everything")
        return
    stack = build_stack(checkout, load_stack_settings(env_file.read(checkout / ".env")))
    rows = [("PROGRAM", "STATE", "PID", "UPTIME", "PORTS")]
    for component in (*stack.servers, *stack.services):
        rows += _rows(component, statuses)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def follow_logs(checkout: Path, name: str | None) -> None:
    """Show the last lines of one program's log, or of all, and go on as they grow.

    Raises:
        StackError: there is no such program, or nothing has run yet.
    """
    files = Stack(stack_directory(checkout)).supervisor.files
    known = sorted(path.stem for path in files.log("any").parent.glob("*.log"))
    if not known:
        raise StackError("no logs yet; `make up` starts everything")
    if name is not None and name not in known:
        raise StackError(f"there is no program {name!r}; there are: {', '.join(known)}")
    chosen = [name] if name is not None else [each for each in known if each != "supervisord"]
    tail = shutil.which("tail")
    if tail is None:
        raise StackError("tail is missing (package coreutils)")
    logs = [str(files.log(each)) for each in chosen]
    # Ours is the process that Ctrl-C ends, so it becomes tail.
    os.execv(tail, ["tail", "-n", str(_LINES_OF_EACH), "-F", *logs])  # noqa: S606 - no shell


def _rows(
    component: Component, statuses: dict[str, ProgramStatus]
) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for program in component.programs():
        status = statuses.get(program.name)
        ports = [] if program.name != component.name else component.ports()
        listed = " ".join(str(port.number) for port in ports)
        if status is None or status.pid is None or status.uptime_seconds is None:
            state = "STOPPED" if status is None else status.state
            rows.append((program.name, state, "-", "-", listed))
        else:
            uptime = _duration(status.uptime_seconds)
            rows.append((program.name, status.state, str(status.pid), uptime, listed))
    return rows


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (
        f"{days}d {hours:02}:{minutes:02}:{seconds:02}"
        if days
        else f"{hours:02}:{minutes:02}:{seconds:02}"
    )
