"""All experiments, in the order in which they run."""

from collections.abc import Sequence

from taskflow_bench.errors import BenchBroke
from taskflow_bench.more import (
    backlog,
    batches,
    consumers,
    growth,
    knee,
    log_lines,
    memory,
    payloads,
    sleepers,
    startup,
)
from taskflow_bench.more.experiment import Experiment

EXPERIMENTS: Sequence[Experiment] = (
    Experiment("startup", "Start-up", 2, startup.run),
    Experiment("batches", "Batches of jobs", 2, batches.run),
    Experiment("payloads", "Size of the payload", 4, payloads.run),
    Experiment("lines", "Lines of log", 3, log_lines.run),
    Experiment("consumers", "Number of consumers", 4, consumers.run),
    Experiment("sleepers", "Sleeping jobs", 2, sleepers.run),
    Experiment("knee", "Latency against load", 3, knee.run),
    Experiment("growth", "Cost by growth", 8, growth.run),
    Experiment("backlog", "A backlog", 5, backlog.run),
    Experiment("memory", "Memory", 4, memory.run),
)


def chosen(names: Sequence[str]) -> list[Experiment]:
    """Those with these names, in their order; all of them without.

    Raises:
        BenchBroke: none has a name.
    """
    known = [each.name for each in EXPERIMENTS]
    for name in names:
        if name not in known:
            raise BenchBroke(f"no experiment is called {name!r}; there are {', '.join(known)}")
    return [each for each in EXPERIMENTS if not names or each.name in names]
