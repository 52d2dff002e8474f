"""The invariants over a live system: bounded, and looked at twice where one look proves nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from taskflow.db.tenants import Session
from taskflow.doctor.dead_messages import DeadMessage
from taskflow.doctor.diagnosis import Diagnosis, fail, ok, unseen
from taskflow.doctor.invariants import (
    EVERY_JOB,
    Evidence,
    Finding,
    Invariant,
    Need,
    Scope,
    load,
    run,
)
from taskflow.doctor.servers import DATABASE_ERRORS, not_answered
from taskflow.doctor.stored_objects import sample_keys, sizes
from taskflow.errors import ServiceUnavailable
from taskflow.object_store import ObjectStore

BEYOND_TWO_HEARTBEATS_SECONDS = 2.0
"""What passes has passed within two heartbeats and a tick of the scheduler."""

SHOWN = 5

# What the chaos suite knows and nobody else: a live system has neither clients' notes nor an end.
_NOT_FOR_LIVE = frozenset({Need.CLIENT_VIEW, Need.QUIET})


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is looked at; `newest_jobs` 0 means all jobs."""

    newest_jobs: int
    objects: int
    pointer_lost_after_seconds: float
    statement_timeout_seconds: float
    heartbeat_seconds: float


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the evidence comes from; None where a server can't be asked."""

    connection: Session
    object_store: ObjectStore | None
    dead_messages: Sequence[DeadMessage] | None


async def examine_invariants(
    sources: Sources,
    bounds: Bounds,
    *,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> list[Diagnosis]:
    """A line for all that hold, and one for each that does not.

    `pause` is called, with seconds, before a second look.
    """
    try:
        scope = await _scope(sources.connection, bounds)
        every = list(load().values())
        sample = await _sample(sources, bounds, scope)
        findings, objects = await _look(sources, sample, scope, every)
        doubtful = [each.invariant for each in findings if each.count and each.invariant.passing]
        if doubtful:
            await pause(2 * bounds.heartbeat_seconds + BEYOND_TWO_HEARTBEATS_SECONDS)
            # At the same objects: another sample would hardly have what was missing in this one.
            again, _ = await _look(sources, sample, scope, doubtful)
            findings = _confirmed(findings, again)
        seen = await _seen(sources.connection, scope, bounds)
    except DATABASE_ERRORS as error:
        return [not_answered("invariants", error)]
    return [_summary(findings, f"{seen}; {objects}"), *_problems(findings)]


async def _scope(connection: Session, bounds: Bounds) -> Scope:
    first = EVERY_JOB
    if bounds.newest_jobs:
        oldest_seen: UUID | None = await connection.fetchval(
            "SELECT id FROM jobs ORDER BY id DESC OFFSET $1 LIMIT 1", bounds.newest_jobs - 1
        )
        first = oldest_seen or EVERY_JOB
    return Scope(first, bounds.pointer_lost_after_seconds, bounds.statement_timeout_seconds)


@dataclass(frozen=True, slots=True)
class _Sample:
    """The objects that are looked for; `is_whole`: no row in the scope names another one."""

    keys: Sequence[str] = ()
    is_whole: bool = True

    def __str__(self) -> str:
        return f"{len(self.keys)} objects in S3" + ("" if self.is_whole else " drawn at random")


async def _sample(sources: Sources, bounds: Bounds, scope: Scope) -> _Sample:
    if sources.object_store is None:
        return _Sample()
    keys = await sample_keys(sources.connection, first_job=scope.first_job, limit=bounds.objects)
    return _Sample(keys, is_whole=len(keys) < bounds.objects)


async def _look(
    sources: Sources, sample: _Sample, scope: Scope, invariants: Sequence[Invariant]
) -> tuple[list[Finding], str]:
    """What the invariants came to, and which objects were looked at."""
    stored: dict[str, int | None] | None = None
    looked_at = "no objects in S3"
    if sources.object_store is not None:
        try:
            stored = await sizes(sources.object_store, sample.keys)
            looked_at = str(sample)
        except ServiceUnavailable as error:
            looked_at = f"no objects in S3 ({error})"
    evidence = Evidence(dead_messages=sources.dead_messages, stored_objects=stored)
    findings = await run(sources.connection, invariants=invariants, evidence=evidence, scope=scope)
    return findings, looked_at


def _confirmed(first: Sequence[Finding], again: Sequence[Finding]) -> list[Finding]:
    """The first look, where a doubtful finding counts only as far as the second has it too."""
    second = {finding.invariant.name: finding for finding in again}
    return [
        _in_both(finding, second[finding.invariant.name])
        if finding.invariant.name in second
        else finding
        for finding in first
    ]


def _in_both(first: Finding, second: Finding) -> Finding:
    before = {violation.job_id for violation in first.violations}
    kept = tuple(each for each in second.violations if each.job_id in before)
    # Where more were found than are returned, those that are stand for the rest.
    are_all = first.count == len(first.violations) and second.count == len(second.violations)
    return replace(
        second, violations=kept, count=len(kept) if are_all or not kept else second.count
    )


async def _seen(connection: Session, scope: Scope, bounds: Bounds) -> str:
    count = await connection.fetchval("SELECT count(*) FROM jobs WHERE id >= $1", scope.first_job)
    if scope.first_job == EVERY_JOB:
        return f"all {count} jobs"
    return f"the {bounds.newest_jobs} newest jobs, submitted since {scope.since:%Y-%m-%d %H:%M} UTC"


def _summary(findings: Sequence[Finding], seen: str) -> Diagnosis:
    holding = [finding for finding in findings if finding.holds]
    without = [
        finding.invariant.code
        for finding in findings
        if finding.skipped and finding.invariant.need in _NOT_FOR_LIVE
    ]
    text = (
        f"{len(holding)} hold over {seen} ({_codes(holding)});"
        f" {len(without)} are for the chaos suite, which has the clients' view"
    )
    return ok("invariants", text)


def _codes(findings: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(finding.invariant.code for finding in findings))


def _problems(findings: Sequence[Finding]) -> list[Diagnosis]:
    problems = []
    for finding in findings:
        invariant = finding.invariant
        if finding.count:
            shown = [f"job {each.job_id} {each.problem}" for each in finding.violations[:SHOWN]]
            text = f"violated {finding.count} times: {invariant.title}"
            problems.append(fail(invariant.code, text, _sentence(invariant.what_to_do), shown))
        elif finding.unanswered:
            problems.append(
                unseen(
                    invariant.code,
                    f"took too long: {invariant.title}",
                    "Look at fewer jobs (--jobs) or give it longer (--timeout).",
                )
            )
        elif finding.skipped and invariant.need not in _NOT_FOR_LIVE:
            problems.append(
                unseen(
                    invariant.code,
                    f"not looked at, for want of {invariant.need}: {invariant.title}",
                    "Mend what is said of RabbitMQ and S3 above, and run the doctor again.",
                )
            )
    return problems


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
