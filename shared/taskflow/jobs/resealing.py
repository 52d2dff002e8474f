"""Sealing anew what is sealed with another key than the first, or not at all; a job at a time.

Nothing that clients see changes: not the content, nor `updated_at`, by which versions are told.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.errors import PayloadKeyMissing, SealBroken
from taskflow.sealing.form import sealed_by, sealed_by_sql
from taskflow.sealing.ring import Part, Place, SealingKeyRing

_FIRST_ID = UUID(int=0)
_PARTS = (Part.PAYLOAD, Part.RESULT, Part.CHECKPOINT)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A large result, which lies in the object store."""

    tenant_id: UUID
    job_id: UUID
    object_key: str

    @property
    def place(self) -> Place:
        """Where it belongs."""
        return Place(self.tenant_id, self.job_id, Part.RESULT)


@dataclass(frozen=True, slots=True)
class Window:
    """Jobs in the order of their ids: which of them to seal anew, and their large results."""

    seen: int
    last_id: UUID | None
    """None: there are no more."""
    to_reseal: Sequence[UUID]
    results: Sequence[StoredResult]


@dataclass(slots=True)
class Resealed:
    """What became of some jobs; `problems` are those that could not be opened, in words."""

    jobs: int = 0
    problems: list[str] = field(default_factory=list)


_IN_FIXED_WORDS = frozenset({"cancelled", "expired", "worker_lost", "parent_failed"})
"""The types of errors that are written without keys, and hold nothing of a payload."""


def _differs(column: LiteralString) -> LiteralString:
    return f"({column} IS NOT NULL AND coalesce({sealed_by_sql(column)}, '') <> $3)"


def _error_differs(column: LiteralString) -> LiteralString:
    message = f"({column} -> 'message')"
    return f"""(
        {_differs(message)} AND ({sealed_by_sql(message)} IS NOT NULL
                                 OR {column} ->> 'type' <> ALL($4::text[])))"""


_WINDOW = f"""
WITH seen AS MATERIALIZED (
    SELECT id, tenant_id, payload, result, checkpoint, error, result_object
    FROM jobs WHERE id > $1 ORDER BY id LIMIT $2
)
SELECT id, tenant_id, result_object,
       {_differs("payload")} OR {_differs("result")} OR {_differs("checkpoint")}
       OR {_error_differs("error")}
       OR EXISTS (SELECT FROM job_attempts AS ended
                  WHERE ended.job_id = seen.id AND {_error_differs("ended.error")})
       OR EXISTS (SELECT FROM job_events AS event
                  WHERE event.job_id = seen.id
                    AND {_error_differs("(event.detail -> 'error')")}) AS differs
FROM seen ORDER BY id
"""

_LOCK = """
SELECT id, tenant_id, payload, result, checkpoint, error FROM jobs
WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE
"""
_ATTEMPTS = """
SELECT job_id, number, error FROM job_attempts WHERE job_id = ANY($1::uuid[]) AND error IS NOT NULL
"""
_EVENTS = """
SELECT job_id, id, detail FROM job_events
WHERE job_id = ANY($1::uuid[]) AND detail -> 'error' IS NOT NULL
"""


async def look(
    connection: Connection, ring: SealingKeyRing, *, after: UUID | None = None, limit: int
) -> Window:
    """The next `limit` jobs after the id `after`."""
    first_key = ring.seals_with or ""
    rows = await connection.fetch(
        _WINDOW, after or _FIRST_ID, limit, first_key, list(_IN_FIXED_WORDS)
    )
    return Window(
        seen=len(rows),
        last_id=rows[-1]["id"] if rows else None,
        to_reseal=[row["id"] for row in rows if row["differs"]],
        results=[
            StoredResult(row["tenant_id"], row["id"], row["result_object"])
            for row in rows
            if row["result_object"] is not None
        ],
    )


async def reseal(connection: Connection, ring: SealingKeyRing, job_ids: Sequence[UUID]) -> Resealed:
    """Seal these jobs anew in one transaction; who writes to one of them waits for it.

    A job that can't be opened stays as it is; one that is gone is passed over.
    """
    done = Resealed()
    async with connection.transaction():
        rows = await connection.fetch(_LOCK, job_ids)
        attempts = await _by_job(connection, _ATTEMPTS, job_ids)
        events = await _by_job(connection, _EVENTS, job_ids)
        for row in rows:
            try:
                changes = _Changes(ring, row, attempts[row["id"]], events[row["id"]])
            except (PayloadKeyMissing, SealBroken) as error:
                done.problems.append(f"{row['id']}: {error}")
            else:
                await changes.write(connection)
                done.jobs += 1
    return done


async def is_named(connection: Connection, result: StoredResult) -> bool:
    """Whether the job is still there and has this result."""
    found = await connection.fetchval(
        "SELECT true FROM jobs WHERE id = $1 AND result_object = $2",
        result.job_id,
        result.object_key,
    )
    return bool(found)


async def _by_job(
    connection: Connection, query: LiteralString, job_ids: Sequence[UUID]
) -> defaultdict[UUID, list[Any]]:
    found: defaultdict[UUID, list[Any]] = defaultdict(list)
    for row in await connection.fetch(query, job_ids):
        found[row["job_id"]].append(row)
    return found


class _Changes:
    """One job's row, attempts and events as they are to be."""

    def __init__(
        self, ring: SealingKeyRing, row: Any, attempts: Sequence[Any], events: Sequence[Any]
    ) -> None:
        self._ring = ring
        self._tenant_id, self._job_id = row["tenant_id"], row["id"]
        # One error lies in several places, and is to be one text in all of them.
        self._messages: dict[str, str] = {}
        self._job = [self._document(part, row[part.value]) for part in _PARTS]
        self._job.append(self._error(row["error"]))
        self._attempts = [(each["number"], self._error(each["error"])) for each in attempts]
        self._events = [(each["id"], self._detail(each["detail"])) for each in events]

    async def write(self, connection: Connection) -> None:
        await connection.execute(
            "UPDATE jobs SET payload = $2, result = $3, checkpoint = $4, error = $5 WHERE id = $1",
            self._job_id,
            *self._job,
        )
        for number, error in self._attempts:
            await connection.execute(
                "UPDATE job_attempts SET error = $3 WHERE job_id = $1 AND number = $2",
                self._job_id,
                number,
                error,
            )
        for event_id, detail in self._events:
            await connection.execute(
                "UPDATE job_events SET detail = $2 WHERE id = $1", event_id, detail
            )

    def _document(self, part: Part, stored_json: str | None) -> str | None:
        if stored_json is None:
            return None
        place = Place(self._tenant_id, self._job_id, part)
        return self._ring.seal_json(place, self._ring.open_json(place, stored_json))

    def _error(self, error_json: str | None) -> str | None:
        if error_json is None:
            return None
        return json.dumps(self._sealed(json.loads(error_json)))

    def _detail(self, detail_json: str) -> str:
        detail = json.loads(detail_json)
        return json.dumps(detail | {"error": self._sealed(detail["error"])})

    def _sealed(self, error: dict[str, Any]) -> dict[str, Any]:
        stored = error["message"]
        if sealed_by(stored) is None and error["type"] in _IN_FIXED_WORDS:
            return error
        if stored not in self._messages:
            place = Place(self._tenant_id, self._job_id, Part.ERROR)
            self._messages[stored] = self._ring.seal_text(
                place, self._ring.open_text(place, stored)
            )
        return error | {"message": self._messages[stored]}
