"""The jobs of a batch on their way: looked at one by one, then committed each by itself or all."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any
from uuid import UUID

from taskflow.errors import (
    IdempotencyKeyReused,
    InvalidContent,
    NotAllAccepted,
    TaskFlowError,
)
from taskflow.jobs.new_job import Idempotency, NewJob, Submission
from taskflow.jobs.schemas import JobRequest
from taskflow.jobs.submission_answers import Answer
from taskflow.sealing.ring import SealingKeyRing
from taskflow_api.batch_schemas import MAX_JOBS, BatchEnvelope
from taskflow_api.intake import PATH, REFUSALS, Defaults, admit, new_job
from taskflow_api.json_body import validated
from taskflow_api.lifespan import Resources
from taskflow_api.problems import ProblemError
from taskflow_api.request_headers import MAX_KEY_CHARACTERS
from taskflow_api.secret_fields import NO_SECRETS, SecretFields

BATCH_PATH = f"{PATH}/batch"
"""The path that idempotency keys of batches are scoped to."""

Refusal = TaskFlowError | ProblemError

SPELL_SECONDS = 0.005
"""After so long other requests have their turn: a whole batch may take tenths of a second."""


@dataclass(slots=True)
class Item:
    """A job of a batch, and what became of it; `outcome` is None while it is to be submitted.

    What is no job at all has none.
    """

    job: NewJob | None
    secrets: SecretFields
    outcome: Submission | Refusal | None

    @property
    def refusal(self) -> Refusal | None:
        """Why it is refused, if it is."""
        return self.outcome if isinstance(self.outcome, TaskFlowError | ProblemError) else None


class Spells:
    """Work on many jobs, in spells between which other requests have their turn."""

    def __init__(self) -> None:
        """The first one begins now."""
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + SPELL_SECONDS

    async def next_job(self) -> None:
        """To be called before each job, which may take longer than a hundred others."""
        if self._loop.time() >= self._ends_at:
            await asyncio.sleep(0)
            self._ends_at = self._loop.time() + SPELL_SECONDS


async def take_in(
    resources: Resources, tenant_id: UUID, batch: BatchEnvelope, key: str | None
) -> list[Item]:
    """Look at each job as if it came alone, and at what came of them if the batch came before.

    Raises:
        IdempotencyKeyReused: the key belongs to another batch.
        ServiceUnavailable: PostgreSQL can't be asked.
    """
    keys = [] if key is None else _keys_of(resources.ring, tenant_id, batch, key)
    spells = Spells()
    items: list[Item] = []
    for value, idempotency in zip_longest(batch.jobs, keys[: len(batch.jobs)]):
        await spells.next_job()
        items.append(await _take_in_one(resources, tenant_id, value, idempotency))
    if key is not None:
        try:
            await _recall(resources, tenant_id, items, keys)
        except IdempotencyKeyReused as error:
            detail = f"The Idempotency-Key {key!r} was used for another batch."
            raise IdempotencyKeyReused(detail) from error
    return items


def _keys_of(
    ring: SealingKeyRing, tenant_id: UUID, batch: BatchEnvelope, key: str
) -> Sequence[Idempotency]:
    """The keys of all jobs that any batch may have: one with the same key may have had more."""
    fingerprint, *also = ring.fingerprints(tenant_id, _canonical(batch))
    return [
        Idempotency(BATCH_PATH, item_key(key, index), fingerprint, also)
        for index in range(MAX_JOBS)
    ]


def item_key(key: str, index: int) -> str:
    """The key of a batch's job, as unlike any other's as the client's key; no longer than one."""
    named = f"{key}/{index}"
    if len(named) <= MAX_KEY_CHARACTERS:
        return named
    return f"{hashlib.sha256(key.encode()).hexdigest()}/{index}"


def _canonical(batch: BatchEnvelope) -> bytes:
    """The whole batch, so that a key is not used for two of which one has a job less."""
    content = {"atomic": batch.atomic, "jobs": batch.jobs}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


async def _take_in_one(
    resources: Resources, tenant_id: UUID, value: Any, idempotency: Idempotency | None
) -> Item:
    try:
        wanted = validated(JobRequest, value)
    except ProblemError as error:
        detail = "The job has members that are not acceptable."
        return Item(None, NO_SECRETS, ProblemError(error.kind, detail, errors=error.errors))

    def as_job(defaults: Defaults) -> NewJob:
        return new_job(
            wanted, defaults, resources.ring, tenant_id=tenant_id, idempotency=idempotency
        )

    try:
        defaults = await admit(wanted, resources.job_type_rights, resources.job_types, tenant_id)
    except REFUSALS as error:
        return Item(as_job(Defaults()), NO_SECRETS, error)
    return Item(as_job(defaults), defaults.secrets, None)


async def _recall(
    resources: Resources, tenant_id: UUID, items: Sequence[Item], keys: Sequence[Idempotency]
) -> None:
    """Give those that were accepted before their answers, whatever would refuse them by now."""
    by_id = {item.job.id: item for item in items if item.job is not None}
    jobs = [item.job for item in items if item.job is not None]
    found = await resources.submissions.find_each(tenant_id, jobs, keys)
    for job_id, answer in found.items():
        item = by_id[job_id]
        if item.job is not None and item.outcome is not None:
            item.secrets = await resources.job_types.secrets_of(tenant_id, item.job.type)
        item.outcome = answer


async def submit_each(resources: Resources, items: Sequence[Item], *, size_bytes: int) -> None:
    """Commit each that isn't refused, as if it came alone; `size_bytes`: of the whole batch."""
    waiting = [item for item in items if item.outcome is None]
    jobs = [item.job for item in waiting if item.job is not None]
    answers = await resources.submissions.submit_each(jobs, size_bytes=size_bytes)
    for item, answer in zip(waiting, answers, strict=True):
        item.outcome = answer


async def submit_together(resources: Resources, items: Sequence[Item]) -> None:
    """Commit all in one transaction, unless one of them is refused.

    Raises:
        InvalidContent: PostgreSQL can't store one of them.
        ServiceUnavailable: PostgreSQL doesn't answer in time; they may all be committed.
    """
    for item in items:
        if item.outcome is None and item.job is not None and item.job.is_linked:
            item.outcome = _not_together(item.job)
    waiting = [item for item in items if item.outcome is None]
    if not waiting or any(item.refusal is not None for item in items):
        return
    jobs = [item.job for item in waiting if item.job is not None]
    answers: Sequence[Answer | None]
    try:
        answers = await resources.submissions.submit_together(jobs)
    except NotAllAccepted as error:
        answers = [error.refusals.get(job.id) for job in jobs]
    for item, answer in zip(waiting, answers, strict=True):
        item.outcome = answer


def _not_together(job: NewJob) -> InvalidContent:
    """Other jobs' rows decide about it, which are not to be locked for as long as a batch takes."""
    member = "unique_key" if job.unique_key is not None else "depends_on"
    return InvalidContent(
        f"A job of an atomic batch can't have {member}.",
        [(f"/{member}", "is not possible in an atomic batch")],
    )
