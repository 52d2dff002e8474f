"""Rates with several consumers."""

from taskflow_bench.arena import Arena
from taskflow_bench.more.experiment import Extent
from taskflow_bench.more.findings import Findings, Table
from taskflow_bench.more.rates import HEAD, Circumstance, measure

_COUNTS = (1, 2, 4)


async def run(arena: Arena, extent: Extent) -> Findings:
    """The same work for more of them."""
    found = [
        await measure(
            arena, f"consumers-{count}", Circumstance(str(count), workers=count), extent.effort()
        )
        for count in _COUNTS
    ]
    return Findings(
        tables=[Table(head=["consumers", *HEAD], rows=[each.row for each in found])],
        notes=[note for each in found for note in each.notes],
    )
