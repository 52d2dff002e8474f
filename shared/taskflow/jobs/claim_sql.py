"""What claims and those that look for what to claim say alike, as SQL."""

from collections.abc import Sequence
from typing import LiteralString

from taskflow.jobs.guards import from_states, state_list
from taskflow.jobs.states import DISPATCHABLE, JobEvent
from taskflow.sealing.form import sealed_by_sql

HAS_POINTER = (
    f"CASE WHEN state IN {state_list(DISPATCHABLE)} THEN pointer_at END < 'infinity'::timestamptz"
)
TENANT_IN_TURN = "uuid_send(tenant_id)"
"""Both as `ix_jobs_turn` has them, and no other index: by those all of a lane would be read, or all
that a tenant ever had."""


def next_tenant(at: LiteralString) -> LiteralString:
    """The tenant that comes after that of `at` among those whose jobs wait in its lane.

    Round in a circle: after the last one the first, which may be the same. NULL where nobody waits.
    """
    # One probe, however many jobs wait. It begins with the newest pointer: what the oldest ones
    # belong to has been claimed, and stays in the index until a vacuum. Below a policy what the
    # columns are equal to counts for no order, so that all of them have to be named.
    order = f"ORDER BY queue DESC, priority DESC, {TENANT_IN_TURN} DESC LIMIT 1"
    waits = f"queue = {at}.queue AND priority = {at}.priority AND {HAS_POINTER}"
    return f"""coalesce(
        (SELECT tenant_id FROM jobs
         WHERE {waits} AND {TENANT_IN_TURN} < uuid_send({at}.tenant_id) {order}),
        (SELECT tenant_id FROM jobs WHERE {waits} {order}))"""


def may_run(jobs: LiteralString, types: LiteralString, key_ids: LiteralString) -> LiteralString:
    """Whether a job may be claimed now by who knows these types and has these keys."""
    return f"""
    {jobs}.state IN {from_states(JobEvent.CLAIM)} AND {jobs}.run_at <= clock_timestamp()
    AND ({jobs}.expires_at IS NULL OR {jobs}.expires_at > clock_timestamp())
    AND {jobs}.attempt < {jobs}.attempt_limit AND {jobs}.type = ANY({types}::text[])
    AND {is_openable(jobs, key_ids)}"""


def is_openable(jobs: LiteralString, key_ids: LiteralString) -> LiteralString:
    """Whether a worker has the keys to what a job holds; `key_ids` as `openable` gives them."""
    return " AND ".join(
        f"coalesce({sealed_by_sql(f'{jobs}.{column}')}, '') = ANY({key_ids}::text[])"
        for column in ("payload", "checkpoint")
    )


def openable(key_ids: Sequence[str]) -> list[str]:
    """By which keys a job may be sealed; what isn't counts as sealed with ""."""
    return ["", *key_ids]
