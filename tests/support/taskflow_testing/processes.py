"""Processes with all that they have started, as /proc shows them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from taskflow_local.processes import is_alive

_POLL_SECONDS = 0.01


class StillAlive(Exception):
    """Processes outlived a SIGKILL; the text names them."""


def tree(root: int) -> list[int]:
    """The process and its descendants, parents before children; empty when it has ended."""
    if not is_alive(root):
        return []
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, []))
    return found


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each of these that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(root: int) -> list[int]:
    """SIGSTOP a process and its descendants, also those it starts meanwhile; who was stopped."""
    stopped: list[int] = []
    while new := [pid for pid in tree(root) if pid not in stopped]:
        signal_all(new, signal.SIGSTOP)
        stopped += new
    return stopped


def wait_gone(pids: Iterable[int], seconds: float = 10.0) -> None:
    """Return when none of these runs.

    Raises:
        StillAlive: some do after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > deadline:
            raise StillAlive(f"these processes do not end: {left}")
        time.sleep(_POLL_SECONDS)


def _parents() -> Iterable[tuple[int, int]]:
    """Every process with its parent."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # just gone
        # The name before the state stands in parentheses and may hold anything.
        yield int(entry.name), int(stat.rpartition(")")[2].split()[1])
