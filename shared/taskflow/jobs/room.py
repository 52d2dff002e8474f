"""Whether a tenant has room for more that waits, by its quotas and by what it uses.

Near a quota who adds takes turns, tenant by tenant, so that what is judged is what is there; the
turn ends with the transaction.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.quotas import NEAR_BYTES, NEAR_JOBS, NEAR_SHARE, DefaultQuotas, Quotas, Usage
from taskflow.jobs.tenant_turns import Turn, take_turns
from taskflow.jobs.usage import SUMS, fold, usage_of

NO_QUOTAS = DefaultQuotas()
FOLD_AT = 2_000
"""From how many rows on a tenant's count is folded by who adds to it; the scheduler, which does so
all the time, is away then."""


@dataclass(frozen=True, slots=True)
class Room:
    """A tenant's quotas, what it uses of them, and in how many rows that is counted."""

    quotas: Quotas
    usage: Usage
    rows: int


_READ = f"""
SELECT asked.tenant_id, used.*, tenants.is_registered,
       own.waiting_jobs AS most_jobs, own.kept_bytes AS most_bytes
FROM unnest($1::uuid[]) AS asked (tenant_id)
LEFT JOIN tenant_quotas AS own USING (tenant_id)
LEFT JOIN tenants ON tenants.id = asked.tenant_id
CROSS JOIN LATERAL (
    SELECT count(*) AS rows, {SUMS} FROM tenant_usage AS used
    WHERE used.tenant_id = asked.tenant_id
) AS used
"""


async def read_rooms(
    connection: Connection, tenants: Collection[UUID], defaults: DefaultQuotas
) -> dict[UUID, Room]:
    """The room of each of these tenants at this moment."""
    rows = await connection.fetch(_READ, list(tenants))
    return {
        row["tenant_id"]: Room(_quotas(row, defaults), usage_of(row), row["rows"]) for row in rows
    }


def _quotas(row: Any, defaults: DefaultQuotas) -> Quotas:
    def own_or(own: int | None, default: int) -> int:
        return default if own is None else own

    kept = defaults.registered_kept_bytes if row["is_registered"] else defaults.kept_bytes
    return Quotas(own_or(row["most_jobs"], defaults.waiting_jobs), own_or(row["most_bytes"], kept))


async def room_for_more(connection: Connection, tenant_id: UUID, defaults: DefaultQuotas) -> Room:
    """A tenant's room, which near a quota nobody else takes until the transaction ends."""
    room = (await read_rooms(connection, [tenant_id], defaults))[tenant_id]
    if room.quotas.is_near(room.usage):
        return (await rooms_in_turn(connection, [tenant_id], defaults))[tenant_id]
    return room


async def rooms_in_turn(
    connection: Connection, tenants: Collection[UUID], defaults: DefaultQuotas
) -> dict[UUID, Room]:
    """The room of each of these tenants, which nobody else takes until the transaction ends."""
    await take_turns(connection, tenants, Turn.WAITING)
    rooms = await read_rooms(connection, tenants, defaults)
    if any(room.rows >= FOLD_AT for room in rooms.values()):
        await fold(connection, fold_from=FOLD_AT)
    return rooms


def far_tenants(
    asked: LiteralString,
    *,
    jobs: LiteralString,
    kept: LiteralString,
    registered_kept: LiteralString,
) -> LiteralString:
    """The SELECT of the tenants in the relation `asked` that need not take turns for what they ask.

    `asked` has `tenant_id`, `jobs` and `kept_bytes`; the others are SQL for the default quotas.
    Nor is it far to go if the count is in too many rows: whose turn it is folds them.
    Each table is looked at for a row of `asked`, and not before there is one.
    """

    def is_far(
        column: LiteralString, default: LiteralString, used: LiteralString, least: int
    ) -> LiteralString:
        limit = f"coalesce(own.{column}, {default})"
        margin = f"greatest({limit} / {NEAR_SHARE}, {least})"
        return f"({limit} = 0 OR {used} + {margin} <= {limit})"

    kept_default = f"CASE WHEN tenants.is_registered THEN {registered_kept} ELSE {kept} END"
    # The limits and the aggregate keep the planner from joining these in an order of its own.
    return f"""
    SELECT asked.tenant_id FROM {asked} AS asked
    LEFT JOIN LATERAL (
        SELECT is_registered FROM tenants WHERE id = asked.tenant_id LIMIT 1
    ) AS tenants ON true
    LEFT JOIN LATERAL (
        SELECT waiting_jobs, kept_bytes FROM tenant_quotas
        WHERE tenant_id = asked.tenant_id LIMIT 1
    ) AS own ON true
    CROSS JOIN LATERAL (
        SELECT count(*) AS rows, {SUMS} FROM tenant_usage AS used
        WHERE used.tenant_id = asked.tenant_id
    ) AS used
    WHERE used.rows < {FOLD_AT}
      AND {is_far("waiting_jobs", jobs, "used.waiting_jobs + asked.jobs", NEAR_JOBS)}
      AND {is_far("kept_bytes", kept_default, "used.kept_bytes + asked.kept_bytes", NEAR_BYTES)}
    """
