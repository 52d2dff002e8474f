"""Processes of a stack that outlived their supervisord."""

import contextlib
import os
import signal
import time
from pathlib import Path

from taskflow_local.errors import StackError
from taskflow_local.supervisor import MARKER

_POLL_SECONDS = 0.1
_ROUNDS = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))


def end_leftovers(directory: Path) -> bool:
    """End every process that belongs to the stack in `directory`; False if there is none.

    Raises:
        StackError: one survived even KILL.
    """
    if not _find(directory):
        return False
    for number, seconds in _ROUNDS:
        for pid in _find(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while (left := _find(directory)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    if left:
        raise StackError(f"these processes of {directory} do not end: {left}")
    return True


def _find(directory: Path) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _belongs(pid, directory)]


def _belongs(pid: int, directory: Path) -> bool:
    process = Path("/proc") / str(pid)
    try:
        environment = (process / "environ").read_bytes().split(b"\0")
        # PostgreSQL and Redis write their titles over their environment; both work in the
        # directory of their data.
        name = (process / "comm").read_text().strip()
        works_in = (process / "cwd").readlink()
    except OSError:
        # Another user's, or just gone.
        return False
    if os.fsencode(f"{MARKER}={directory}") in environment:
        return True
    return name in {"postgres", "redis-server"} and works_in.is_relative_to(directory)
