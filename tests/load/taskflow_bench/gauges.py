"""What processes use, each with all that it has started, as /proc tells it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskflow_testing import processes

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_KIB_PER_MIB = 1024
_PERIOD_SECONDS = 1.0


def cpu_ticks(stat: str) -> int:
    """Clock ticks in a line of /proc/PID/stat: its own, and of children that it has reaped."""
    # The name stands in parentheses and may hold anything; behind it the state is field 3.
    fields = stat.rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15])


def pss_kib(smaps_rollup: str) -> int:
    """The share of a process in physical memory: pages that n processes have count as 1/n."""
    for line in smaps_rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0  # a process on its way out has no memory


def cpu_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far, by the names of the processes."""
    return {name: _sum_ticks(pid) / _TICKS for name, pid in roots.items()}


@dataclass
class Memory:
    """MiB of each process by its name, at each look."""

    looks: dict[str, list[float]] = field(default_factory=dict)

    def look(self, roots: Mapping[str, int]) -> None:
        """Look once."""
        for name, pid in roots.items():
            kib = sum(_read(each, "smaps_rollup", pss_kib) for each in processes.tree(pid))
            if kib:
                self.looks.setdefault(name, []).append(kib / _KIB_PER_MIB)

    @contextlib.asynccontextmanager
    async def watching(self, roots: Mapping[str, int]) -> AsyncIterator[None]:
        """Look once a second during the block, and at its end."""
        watching = asyncio.create_task(self._watch(roots), name="memory")
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            self.look(roots)

    async def _watch(self, roots: Mapping[str, int]) -> None:
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            self.look(roots)


def _sum_ticks(root: int) -> int:
    return sum(_read(pid, "stat", cpu_ticks) for pid in processes.tree(root))


def _read(pid: int, file: str, parse: Callable[[str], int]) -> int:
    try:
        return parse((_PROC / str(pid) / file).read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0  # just gone
