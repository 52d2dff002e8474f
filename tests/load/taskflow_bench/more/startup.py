"""How long each service takes from its start until it does its work."""

from functools import partial

from taskflow_bench import gauges
from taskflow_bench.arena import Arena
from taskflow_bench.cast import Cast, on_stage
from taskflow_bench.measuring import Use
from taskflow_bench.more.crew import SUBSCRIBED
from taskflow_bench.more.experiment import OURS, Extent
from taskflow_bench.more.findings import Cell, Findings, Table
from taskflow_bench.report import Used, figure
from taskflow_testing.services import ServiceProcess

_TIMES = 7
_HEAD = ("", "seconds, median", "least", "most", "CPU seconds", "MiB when ready")
# What a service logs when it is ready; the API answers /readyz.
_EVENTS = {"worker": SUBSCRIBED, "scheduler": "scheduler_started"}


async def run(arena: Arena, extent: Extent) -> Findings:
    """Each alone, while the others go on."""
    times = max(1, round(_TIMES * extent.scale))
    async with on_stage(arena, OURS, "startup") as cast:
        rows = [await _row(cast, name, times) for name in ("api", "worker", "scheduler")]
    return Findings(
        tables=[Table(head=_HEAD, rows=rows)], notes=[f"Each was started {times} times."]
    )


async def _row(cast: Cast, name: str, times: int) -> list[Cell]:
    memory = gauges.Memory()
    starts = [await _start_again(cast, name, memory) for _ in range(times)]
    seconds = figure(start.seconds for start in starts)
    cpu = figure(start.cpu_seconds[name] for start in starts)
    mib = figure(memory.looks[name])
    return [name, seconds.median, seconds.least, seconds.most, cpu.median, mib.median]


async def _start_again(cast: Cast, name: str, memory: gauges.Memory) -> Used:
    await cast.stop(name)
    process = cast.start(name)
    # A process that has just begun has used nothing before.
    use = Use({name: process.pid})
    await process.wait_ready(partial(_is_ready, cast, name, process))
    used = use.so_far()
    memory.look({name: process.pid})
    return used


async def _is_ready(cast: Cast, name: str, process: ServiceProcess) -> bool:
    if name == "api":
        return cast.contestant.api_is_ready(cast.port)
    return bool(process.events(_EVENTS[name]))
