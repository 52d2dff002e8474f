"""Processes as /proc shows them."""

from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent to notice does not."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False
    # The name before the state stands in parentheses and may hold anything.
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
