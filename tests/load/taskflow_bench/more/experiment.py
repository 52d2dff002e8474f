"""An experiment, and how much of it is done."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from taskflow_bench.arena import Arena
from taskflow_bench.contestants import TASKFLOW, chosen
from taskflow_bench.measuring import Effort
from taskflow_bench.more.findings import Findings

(OURS,) = chosen([TASKFLOW])

_JOBS, _SECONDS = 20_000, 15.0
_LEAST_JOBS, _LEAST_SECONDS = 50, 1.0


@dataclass(frozen=True)
class Extent:
    """A share of the usual numbers, and numbers of which some want more or less."""

    scale: float = 1.0
    backlog_millions: Sequence[float] = (1.0,)
    memory_jobs: int = 100_000

    def jobs(self, usual: int) -> int:
        """So many of a number of jobs."""
        return max(_LEAST_JOBS, round(usual * self.scale))

    def effort(self, jobs: int = _JOBS, seconds: float = _SECONDS) -> Effort:
        """What a phase of posts ends with."""
        return Effort(jobs=self.jobs(jobs), seconds=max(_LEAST_SECONDS, seconds * self.scale))


@dataclass(frozen=True)
class Experiment:
    """`minutes` is what it takes on two cores, at full scale."""

    name: str
    title: str
    minutes: int
    run: Callable[[Arena, Extent], Awaitable[Findings]]
