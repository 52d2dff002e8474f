"""Turns of a tenant's: who has one is alone in judging what the tenant has room for."""

from collections.abc import Collection
from enum import StrEnum
from uuid import UUID

from taskflow.db.pool import Connection

FROZEN_AFTER_SECONDS = 2
"""For how long one who has the turn may do nothing: then its session is ended, or a process that
froze would keep all others waiting, also with the jobs of other tenants that they have in hand."""


class Turn(StrEnum):
    """What is judged; turns of one kind have nothing to do with those of the other."""

    WAITING = "quota"
    RUNNING = "running"


_TAKE = f"""
SELECT pg_advisory_xact_lock(hashtextextended($2 || ' ' || tenant_id::text, 0)),
       set_config('idle_in_transaction_session_timeout', '{FROZEN_AFTER_SECONDS}s', true)
FROM unnest($1::uuid[]) AS asked (tenant_id)
"""


async def take_turns(connection: Connection, tenants: Collection[UUID], turn: Turn) -> None:
    """Wait until nobody else has this turn of one of these tenants; it ends with the transaction.

    Before any job's row is locked: who has the turn may wait for one.
    """
    await connection.execute(_TAKE, sorted(tenants), turn)
