"""The invariants: each a SELECT in `invariants/*.sql` that returns no row while it holds.

The files are plain SQL with psql's variables, so they can be run by hand:
`psql -v first_job=00000000-0000-0000-0000-000000000000 -f I07_legal_history.sql`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib import resources
from typing import Any
from uuid import UUID

import asyncpg

from taskflow.db.pool import Connection
from taskflow.db.tenants import Session
from taskflow.doctor.dead_messages import DeadMessage

RETURNED = 10_000
"""How many violations of one invariant are returned, by job; all of them are counted."""

EVERY_JOB = UUID(int=0)
"""As the first job of a scope: it lies before all."""

_HEADER = re.compile(r"-- (I\d+|Why|Do|Needs|Passing): (.+(?:\n--   .+)*)")
_VARIABLE = re.compile(r":'(\w+)'")


class Need(StrEnum):
    """What an invariant has to be given beside the database's own tables."""

    CLIENT_VIEW = "client view"
    """The tables `chaos.accepted` and `chaos.effects`: what clients and handlers noted."""
    QUIET = "quiet"
    """That nothing waits or runs any more."""
    DEAD_MESSAGES = "dead messages"
    STORED_OBJECTS = "stored objects"


@dataclass(frozen=True, slots=True)
class Invariant:
    """One file: `code` is I1 to I17, `name` the file's, which is unique."""

    name: str
    code: str
    title: str
    why: str
    what_to_do: str
    need: Need | None
    passing: bool
    """Whether a violation may pass by itself in seconds, so that only a second look is proof."""
    sql: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the database can't see by itself; what isn't given skips the invariants that need it.

    `stored_objects` are sizes in bytes by key, None for an object that is missing.
    """

    quiet: bool = False
    dead_messages: Sequence[DeadMessage] | None = None
    stored_objects: Mapping[str, int | None] | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """How far the look goes, and by which rules.

    Jobs from `first_job` on are looked at: ids are UUIDv7, so they are those submitted since
    then. What is blocked, waits for a pointer or runs is looked at whatever its age.
    """

    first_job: UUID = EVERY_JOB
    pointer_lost_after_seconds: float = 45.0
    statement_timeout_seconds: float = 60.0

    @property
    def since(self) -> datetime:
        """When the first job was submitted, by the clock of the API that took it."""
        return datetime.fromtimestamp((self.first_job.int >> 80) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Violation:
    """A job and what is wrong with it, as the end of a sentence that its id begins."""

    job_id: UUID
    problem: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one invariant came to; `unanswered` says why it could not be looked at."""

    invariant: Invariant
    count: int = 0
    violations: tuple[Violation, ...] = ()
    unanswered: str | None = None
    skipped: bool = False

    @property
    def holds(self) -> bool:
        """Whether it was looked at and nothing violates it."""
        return not (self.count or self.unanswered or self.skipped)


def load() -> dict[str, Invariant]:
    """Every invariant by its name, in the order of their numbers."""
    folder = resources.files("taskflow.doctor") / "invariants"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=str)
    parsed = (_parse(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in files)
    return {invariant.name: invariant for invariant in parsed}


def _parse(name: str, sql: str) -> Invariant:
    entries = {key: re.sub(r"\n--\s+", " ", text) for key, text in _HEADER.findall(sql)}
    code = next(key for key in entries if key.startswith("I"))
    return Invariant(
        name=name,
        code=code,
        title=entries[code].removesuffix("."),
        why=entries["Why"],
        what_to_do=entries["Do"],
        need=Need(entries["Needs"]) if "Needs" in entries else None,
        passing="Passing" in entries,
        sql=sql,
    )


async def run(
    connection: Session,
    *,
    invariants: Sequence[Invariant] | None = None,
    evidence: Evidence | None = None,
    scope: Scope | None = None,
) -> list[Finding]:
    """Look at all invariants (or at these) in one snapshot, writing nothing.

    The client's view is taken where its tables are.
    """
    scope = scope or Scope()
    evidence = evidence or Evidence()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(
            "SELECT set_config('statement_timeout', $1, true)",
            str(round(scope.statement_timeout_seconds * 1000)),
        )
        given = await _given(connection, evidence)
        variables = _variables(scope, evidence)
        return [
            await _look(connection, invariant, variables)
            if invariant.need is None or invariant.need in given
            else Finding(invariant, skipped=True)
            for invariant in invariants or load().values()
        ]


async def _given(connection: Connection, evidence: Evidence) -> set[Need]:
    client_view = await connection.fetchval(
        "SELECT to_regclass('chaos.accepted') IS NOT NULL"
        " AND to_regclass('chaos.effects') IS NOT NULL"
    )
    given = {
        Need.CLIENT_VIEW: bool(client_view),
        Need.QUIET: evidence.quiet,
        Need.DEAD_MESSAGES: evidence.dead_messages is not None,
        Need.STORED_OBJECTS: evidence.stored_objects is not None,
    }
    return {need for need, is_given in given.items() if is_given}


def _variables(scope: Scope, evidence: Evidence) -> dict[str, Any]:
    return {
        "first_job": scope.first_job,
        "since": scope.since,
        "pointer_lost_after_seconds": scope.pointer_lost_after_seconds,
        "dead_messages": json.dumps(
            [
                {"job_id": str(message.job_id), "reason": message.reason}
                for message in evidence.dead_messages or ()
                if message.job_id is not None
            ]
        ),
        "stored_objects": json.dumps(
            [
                {"object_key": key, "size": size}
                for key, size in (evidence.stored_objects or {}).items()
            ]
        ),
    }


async def _look(
    connection: Connection, invariant: Invariant, variables: Mapping[str, Any]
) -> Finding:
    statement, names = _numbered(invariant.sql)
    try:
        # A savepoint: the others are looked at even when this one takes too long.
        async with connection.transaction():
            rows = await connection.fetch(
                f"SELECT job_id, problem, count(*) OVER () AS count FROM ({statement}\n)"
                f" AS violation ORDER BY job_id LIMIT {RETURNED}",
                *(variables[name] for name in names),
            )
    except asyncpg.QueryCanceledError as error:
        return Finding(invariant, unanswered=str(error))
    return Finding(
        invariant,
        count=rows[0]["count"] if rows else 0,
        violations=tuple(Violation(row["job_id"], row["problem"]) for row in rows),
    )


def _numbered(sql: str) -> tuple[str, list[str]]:
    """The statement with psql's variables as PostgreSQL's numbered ones, and their names."""
    names = list(dict.fromkeys(_VARIABLE.findall(sql)))
    numbered = _VARIABLE.sub(lambda found: f"${names.index(found[1]) + 1}", sql)
    return numbered.rstrip().removesuffix(";"), names
