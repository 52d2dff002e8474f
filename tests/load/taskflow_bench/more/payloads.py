"""Rates with payloads of several sizes."""

import random

from taskflow_bench import handlers
from taskflow_bench.arena import Arena
from taskflow_bench.more.experiment import Extent
from taskflow_bench.more.findings import Findings, Table
from taskflow_bench.more.rates import HEAD, Circumstance, measure
from taskflow_bench.work import Work, post

_KIB = (1, 16, 200)


async def run(arena: Arena, extent: Extent) -> Findings:
    """Each size on its own."""
    found = [await measure(arena, f"payload-{kib}", _of_size(kib), extent.effort()) for kib in _KIB]
    return Findings(
        tables=[Table(head=["payload", *HEAD], rows=[each.row for each in found])],
        notes=[note for each in found for note in each.notes],
    )


def _of_size(kib: int) -> Circumstance:
    text = noise(kib * 1024)
    work = Work([post("bench.digest", {"text": text})], handlers.digest_of(text))
    return Circumstance(f"{kib} KiB", work, settings={"handlers": handlers.MODULE})


def noise(length: int) -> str:
    """Text that hardly compresses, or PostgreSQL would store next to nothing."""
    return random.Random(length).randbytes((length + 1) // 2).hex()[:length]
