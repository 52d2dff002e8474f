"""Whether the services have let go of every connection to PostgreSQL that they do not use."""

import asyncio
from collections import Counter
from datetime import timedelta

from taskflow_chaos import backends
from taskflow_chaos.stage import Stage

_READ_POOL = "taskflow"
"""The application_name of the pools for reads. They keep what they have once opened."""
_READS = 80
_LOOK_SECONDS = 6.0
_IDLE_SECONDS = 65.0
"""The other pools close what they have not needed for a minute."""
_REST_SECONDS = 80.0


async def count_at_rest(stage: Stage) -> Counter[str]:
    """The most connections of each kind while there is nothing to do, before any fault."""
    await asyncio.gather(*(stage.client.get("/api/v1/jobs/stats") for _ in range(_READS)))
    connection = await stage.cluster.connect()
    try:
        before = await backends.highest(connection, _LOOK_SECONDS)
    finally:
        await connection.close()
    stage.figures["backends_before"] = _said(before)
    return before


async def require_none(stage: Stage, before: Counter[str]) -> None:
    """Rest for longer than any pool keeps what it does not need: then each connection that is open
    is one that is used, and the pools for reads, which keep theirs, have no more than before and
    hand out all of them."""
    connection = await stage.cluster.connect()
    try:
        stage.figures["backends_after_the_load"] = _said(await backends.count(connection))
        await asyncio.sleep(_REST_SECONDS)
        after = await backends.count(connection)
        stage.figures["backends_after_a_rest"] = _said(after)
        moment = await connection.fetchval("SELECT now()")
        # Such a pool hands out first what was returned first: all of them in turn.
        for _ in range(_READS):
            await stage.client.get("/api/v1/jobs/stats")
        others = [kind for kind in after if kind != _READ_POOL]
        unused = await backends.unused(connection, [_READ_POOL], moment)
        unused |= await backends.unused(
            connection, others, moment - timedelta(seconds=_IDLE_SECONDS)
        )
    finally:
        await connection.close()
    stage.require(
        after[_READ_POOL] <= before[_READ_POOL],
        f"{after[_READ_POOL]} connections for reads, {before[_READ_POOL]} before the faults",
    )
    stage.require(not unused, f"these are open, but out of use: {_said(unused)}")


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
