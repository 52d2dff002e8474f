"""A contestant's turn: accepting alone, draining alone, both at once, and how long a job takes."""

from taskflow_bench import gauges
from taskflow_bench.arena import Arena
from taskflow_bench.cast import on_stage
from taskflow_bench.contestants import Contestant
from taskflow_bench.measuring import Effort, Measuring
from taskflow_bench.report import Turn, figure


async def play(arena: Arena, contestant: Contestant, round_: int, effort: Effort) -> Turn:
    """Measure one contestant once.

    Raises:
        BenchBroke: it refuses, loses or garbles a job, or stands still.
    """
    async with on_stage(arena, contestant, f"{round_}-{contestant.name}") as cast:
        measuring = Measuring(arena, cast, effort)
        memory, busy_memory = gauges.Memory(), gauges.Memory()
        await measuring.warm_up()
        await cast.stop("worker")
        async with memory.watching(cast.pids):
            sent, accepted = await measuring.accept()
        cast.start("worker")
        async with memory.watching(cast.pids):
            drained = await measuring.drain(sent)
        async with busy_memory.watching(cast.pids):
            both = await measuring.both()
        async with memory.watching(cast.pids):
            latency, milliseconds = await measuring.latency()
        return Turn(
            contestant=contestant.name,
            round=round_,
            accepted=accepted,
            drained=drained,
            both=both,
            latency=latency,
            post_to_completed_ms=milliseconds,
            memory_mib={name: figure(looks).median for name, looks in busy_memory.looks.items()},
            peak_memory_mib={
                name: max(looks + memory.looks.get(name, []))
                for name, looks in busy_memory.looks.items()
            },
        )
