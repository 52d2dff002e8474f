"""The three rates of `make bench` under one circumstance."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from taskflow_bench import gauges
from taskflow_bench.arena import Arena
from taskflow_bench.cast import Cast, on_stage
from taskflow_bench.measuring import Effort, Measuring
from taskflow_bench.more.crew import PATIENT, Crew
from taskflow_bench.more.experiment import OURS
from taskflow_bench.more.findings import Cell
from taskflow_bench.report import Phase, figure
from taskflow_bench.table import BUSY_GENERATOR
from taskflow_bench.work import ECHO, Work

HEAD = (
    "accepted/s",
    "drained/s",
    "both at once, completed/s",
    "CPU ms a job",
    "API + workers MiB",
)


@dataclass(frozen=True)
class Rates:
    """What was measured; memory is the median while both went on."""

    title: str
    accepted: Phase
    drained: Phase
    both: Phase
    memory_mib: Mapping[str, float]

    @property
    def cells(self) -> list[Cell]:
        """The figures below `HEAD`. CPU is that of all processes, the servers' too."""
        return [
            self.accepted.per_second,
            self.drained.per_second,
            self.both.per_second,
            sum(self.both.cpu_ms_per_job.values()),
            sum(mib for name, mib in self.memory_mib.items() if name != "scheduler"),
        ]

    @property
    def row(self) -> list[Cell]:
        """The cells behind the title."""
        return [self.title, *self.cells]

    @property
    def notes(self) -> list[str]:
        """Where the load generator may be what was measured."""
        phases = {"accepted": self.accepted, "both": self.both}
        return [
            f"{self.title}, {name}: the load generator used {phase.generator_cores:.2f} of a core."
            for name, phase in phases.items()
            if phase.generator_cores > BUSY_GENERATOR
        ]


@dataclass(frozen=True)
class Circumstance:
    """How it is measured; `settings` are TaskFlow's.

    `work` may depend on the database. `check` is asked at the end, and raises what is not right.
    """

    title: str
    work: Work | Callable[[Cast], Awaitable[Work]] = ECHO
    workers: int = 1
    settings: Mapping[str, object] = field(default_factory=dict)
    check: Callable[[Cast], Awaitable[None]] | None = None


async def measure(arena: Arena, name: str, circumstance: Circumstance, effort: Effort) -> Rates:
    """On a stage of its own; what is drained is begun when all workers are ready."""
    settings = {**PATIENT, **circumstance.settings}
    async with on_stage(arena, OURS, name, settings) as cast:
        work = circumstance.work
        if not isinstance(work, Work):
            work = await work(cast)
        measuring = Measuring(arena, cast, effort, work)
        crew, memory = Crew(cast, circumstance.workers), gauges.Memory()
        await crew.start()
        await measuring.warm_up()
        await crew.stop()
        sent, accepted = await measuring.accept()
        async with crew.held_back():
            await crew.start()
        drained = await measuring.drain(sent)
        async with memory.watching(cast.pids):
            both = await measuring.both()
        if circumstance.check is not None:
            await circumstance.check(cast)
        medians = {name: figure(looks).median for name, looks in memory.looks.items()}
        return Rates(circumstance.title, accepted, drained, both, medians)
