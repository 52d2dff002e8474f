"""`taskflow reseal`: everything that jobs hold is sealed with the first key from here on."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS
from taskflow.db.roles import DatabaseRole
from taskflow.errors import (
    ConfigurationError,
    ObjectMissing,
    PayloadKeyMissing,
    SealBroken,
    TaskFlowError,
)
from taskflow.jobs.resealing import StoredResult, is_named, look, reseal
from taskflow.object_store import ObjectStore
from taskflow.sealing.form import sealed_by
from taskflow.sealing.ring import SealingKeyRing
from taskflow.settings import ResealSettings

WINDOW = 500
"""How many jobs are looked at by one statement."""
BATCH = 50
"""How many jobs are locked and written in one transaction, each of up to some 256 KiB."""

_HEAD_BYTES = 64
_PROBLEMS_SHOWN = 20
_SHOULD_SEE = (DatabaseRole.SCHEDULER, DatabaseRole.CONSUMER)


@dataclass(slots=True)
class Tally:
    """What was done, or would be."""

    seen: int = 0
    jobs: int = 0
    objects: int = 0
    problems: list[str] = field(default_factory=list)


def run(settings: ResealSettings, *, dry_run: bool) -> int:
    """Do it and say what was done; 0: all is sealed with the first key; 1: something is not."""
    try:
        tally = asyncio.run(_run(settings, dry_run=dry_run))
    except TaskFlowError as error:
        sys.stderr.write(f"taskflow: {error}\n")
        return 1
    except (*TRANSIENT_ERRORS, *REFUSALS) as error:
        # All that was committed stays, and the next call goes on with the rest.
        sys.stderr.write(f"taskflow: PostgreSQL: {error or type(error).__name__}\n")
        return 1
    done = "to be sealed" if dry_run else "sealed"
    ring = SealingKeyRing.of(settings.payload_keys.get_secret_value())
    sys.stdout.write(
        f"{tally.seen} jobs looked at; {done} with {ring.seals_with or 'no key'}:"
        f" {tally.jobs} jobs, {tally.objects} large results\n"
    )
    for problem in tally.problems[:_PROBLEMS_SHOWN]:
        sys.stderr.write(f"left as it was: {problem}\n")
    if len(tally.problems) > _PROBLEMS_SHOWN:
        sys.stderr.write(f"and {len(tally.problems) - _PROBLEMS_SHOWN} more\n")
    is_left = tally.problems or (dry_run and tally.jobs + tally.objects)
    return 1 if is_left else 0


async def _run(settings: ResealSettings, *, dry_run: bool) -> Tally:
    if not settings.payload_keys.get_secret_value():
        raise ConfigurationError("TASKFLOW_PAYLOAD_KEYS: is not set; there is nothing to seal with")
    async with AsyncExitStack() as stack:
        connection = await _connect(settings)
        stack.push_async_callback(connection.close)
        store = _open_store(settings)
        stack.push_async_callback(store.close)
        ring = SealingKeyRing.of(settings.payload_keys.get_secret_value())
        return await _Resealing(connection, store, ring, dry_run=dry_run).run()


async def _connect(settings: ResealSettings) -> asyncpg.Connection:
    """As the owner, who migrates: no service may change history."""
    milliseconds = str(int(settings.database_statement_timeout_seconds * 1000))
    connection: asyncpg.Connection = await asyncpg.connect(
        settings.database_url.get_secret_value(),
        timeout=settings.database_acquire_timeout_seconds,
        command_timeout=settings.database_statement_timeout_seconds + 1,
        server_settings={
            "application_name": "taskflow-reseal",
            "statement_timeout": milliseconds,
            "idle_in_transaction_session_timeout": milliseconds,
        },
    )
    # Without their policies it would see no row, and find nothing to do.
    sees = await connection.fetchval(
        "SELECT bool_and(pg_has_role(current_user, role, 'USAGE'))"
        " AND has_table_privilege('job_events', 'UPDATE') FROM unnest($1::name[]) AS role",
        [role.value for role in _SHOULD_SEE],
    )
    if not sees:
        await connection.close()
        raise ConfigurationError(
            "TASKFLOW_DATABASE_URL: this is done by the owner of the database, who migrates it"
        )
    return connection


def _open_store(settings: ResealSettings) -> ObjectStore:
    return ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        timeout_seconds=settings.s3_timeout_seconds,
        ca_file=settings.tls_ca_file,
    )


class _Resealing:
    """One pass over all jobs."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        store: ObjectStore,
        ring: SealingKeyRing,
        *,
        dry_run: bool,
    ) -> None:
        self._connection = connection
        self._store = store
        self._ring = ring
        self._dry_run = dry_run
        self._tally = Tally()

    async def run(self) -> Tally:
        """Window by window; what was done stays done if the pass is cut off."""
        after: UUID | None = None
        while True:
            window = await look(self._connection, self._ring, after=after, limit=WINDOW)
            if window.last_id is None:
                return self._tally
            self._tally.seen += window.seen
            for start in range(0, len(window.to_reseal), BATCH):
                await self._rows(window.to_reseal[start : start + BATCH])
            for result in window.results:
                await self._object(result)
            after = window.last_id

    async def _rows(self, job_ids: Sequence[UUID]) -> None:
        if self._dry_run:
            self._tally.jobs += len(job_ids)
            return
        done = await reseal(self._connection, self._ring, job_ids)
        self._tally.jobs += done.jobs
        self._tally.problems += done.problems

    async def _object(self, result: StoredResult) -> None:
        try:
            head = await self._store.get(result.object_key, 0, _HEAD_BYTES)
            if sealed_by(head.decode(errors="replace")) == self._ring.seals_with:
                return
            if not self._dry_run:
                await self._rewrite(result)
        except (ObjectMissing, PayloadKeyMissing, SealBroken) as error:
            self._tally.problems.append(f"{result.job_id}, large result: {error}")
        else:
            self._tally.objects += 1

    async def _rewrite(self, result: StoredResult) -> None:
        content = self._ring.open_object(result.place, await self._store.get(result.object_key))
        await self._store.put(result.object_key, self._ring.seal_object(result.place, content))
        # Written over an object that was erased meanwhile, it would stay for ever.
        if not await is_named(self._connection, result):
            await self._store.delete([result.object_key])
