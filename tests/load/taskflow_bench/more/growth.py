"""The rates again with ten times as much of something."""

import itertools
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
from uuid_utils.compat import uuid7

from taskflow.access.tenants import create_tenant
from taskflow_bench import handlers
from taskflow_bench.arena import Arena
from taskflow_bench.cast import Cast
from taskflow_bench.more.experiment import Extent
from taskflow_bench.more.findings import Cell, Findings, Table, ratio
from taskflow_bench.more.rates import HEAD, Circumstance, Rates, measure
from taskflow_bench.work import TEXT, Work, post
from taskflow_testing.api_keys import ORIGIN, make_key

_TIMES = 10
_RATIOS = 4
_QUEUES = [f"bench-{number}" for number in range(_TIMES)]


async def run(arena: Arena, extent: Extent) -> Findings:
    """Beside one tenant, queue, type and worker; those again at the end, to tell how it strays."""
    found = [
        await measure(arena, f"growth-{number}", circumstance, extent.effort())
        for number, circumstance in enumerate(_circumstances())
    ]
    head = ["", *HEAD, *(f"{name}, ratio" for name in HEAD[:_RATIOS])]
    return Findings(
        tables=[Table(head=head, rows=[_row(each, found[0]) for each in found])],
        notes=[note for each in found for note in each.notes],
    )


def _row(rates: Rates, plain: Rates) -> list[Cell]:
    ratios = [ratio(value, to) for value, to in zip(rates.cells, plain.cells, strict=True)]
    return [*rates.row, *ratios[:_RATIOS]]


def _circumstances() -> list[Circumstance]:
    return [
        _circumstance("one of each"),
        _circumstance("ten tenants", tenants=_TIMES),
        _circumstance("ten queues", queues=_QUEUES),
        _circumstance("ten job types", kinds=_TIMES),
        _circumstance("ten workers", workers=_TIMES),
        _circumstance("one of each again"),
    ]


def _circumstance(
    title: str,
    *,
    tenants: int = 1,
    queues: Sequence[str] = _QUEUES[:1],
    kinds: int = 1,
    workers: int = 1,
) -> Circumstance:
    settings = {"handlers": handlers.MODULE, "queues": ",".join(queues)}
    work = _work_of(tenants, queues, kinds)
    return Circumstance(title, work, workers=workers, settings=settings)


def _work_of(tenants: int, queues: Sequence[str], kinds: int) -> Callable[[Cast], Awaitable[Work]]:
    async def work(cast: Cast) -> Work:
        posts = [
            post(handlers.kind(kind), {"text": TEXT}, {"X-API-Key": key}, queue=queue)
            for key, queue, kind in itertools.product(
                await _new_keys(cast, tenants), queues, range(kinds)
            )
        ]
        return Work(posts, TEXT)

    return work


async def _new_keys(cast: Cast, tenants: int) -> list[str]:
    """A key for each of so many new tenants."""
    connection = await asyncpg.connect(cast.place.database_url)
    keys = []
    try:
        for number in range(tenants):
            tenant_id = uuid7()
            await create_tenant(connection, tenant_id, f"bench-{number}", ORIGIN)
            made = await make_key(connection, tenant_id=tenant_id)
            keys.append(made.key.text)
    finally:
        await connection.close()
    return keys
