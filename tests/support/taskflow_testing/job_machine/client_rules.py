"""What clients do: submit, repeat, cancel, retry, reschedule, delete."""

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    rule,
)

from taskflow.errors import IdempotencyKeyReused, InvalidContent, JobNotFound, JobStateConflict
from taskflow.jobs import commands, patching
from taskflow.jobs.new_job import Idempotency, NewJob, Submission, SubmissionKind
from taskflow.jobs.schemas import JobPatch
from taskflow.jobs.states import WAITING
from taskflow.jobs.submission_answers import Answer
from taskflow.sealing.ring import SealingKeyRing
from taskflow_testing.job_machine.machine import (
    BROKER_IS_THERE,
    PICKS,
    JobMachine,
    Pick,
    can_be_stopped,
    distinct,
    ended,
    ended_badly,
    waits,
    when_some,
)
from taskflow_testing.job_model import JobModel
from taskflow_testing.jobs import TENANT, idempotency, new_job, submit_one

FIELDS = st.fixed_dictionaries(
    {
        "delay_seconds": st.sampled_from([None, None, 3600.0]),
        "ttl_seconds": st.sampled_from([None, 7200.0]),
        "max_attempts": st.integers(1, 3),
        "unique_key": st.sampled_from([None, None, "unique"]),
    }
)
KEYS = st.sampled_from(
    [None, None, idempotency("a"), idempotency("b"), idempotency("a", b"another body")]
)


class ClientRules(JobMachine):
    """The API's writes."""

    @rule(fields=FIELDS, key=KEYS, broker=BROKER_IS_THERE)
    def submit(self, fields: dict[str, Any], key: Idempotency | None, broker: bool) -> None:
        self.submit_job(new_job(**fields, idempotency=key), with_pointers=broker)

    @when_some(lambda job: not job.ended)
    @rule(fields=FIELDS, parents=st.lists(PICKS, min_size=1, max_size=2), broker=BROKER_IS_THERE)
    def submit_child(self, fields: dict[str, Any], parents: list[Pick], broker: bool) -> None:
        ids = [self.pick(pick, lambda job: not job.ended) for pick in parents]
        self.submit_job(new_job(**fields, depends_on=distinct(*ids)), with_pointers=broker)

    def submit_job(self, job: NewJob, *, with_pointers: bool = True) -> None:
        answer = self.send(job, with_pointers=with_pointers)
        expected = self.expected_refusal(job)
        if expected is not None:
            assert isinstance(answer, expected), answer
            return
        assert isinstance(answer, Submission), answer
        assert (answer.kind, answer.job_id) == self.expected_answer(job)
        if answer.kind is SubmissionKind.ACCEPTED:
            self.submissions[job.id] = job
            if not with_pointers:
                self.model.jobs[job.id].unstamp()

    def send(self, job: NewJob, *, with_pointers: bool = True) -> Answer:
        return self.run(submit_one(self.connection, job, with_pointers=with_pointers))

    def expected_refusal(self, job: NewJob) -> type[Exception] | None:
        known = job.idempotency and self.model.keys.get(job.idempotency.key)
        if known:
            assert job.idempotency is not None
            return IdempotencyKeyReused if known[0] != job.idempotency.fingerprint else None
        if self.model.twin(job.unique_key):
            return None
        parents = [self.model.jobs.get(parent) for parent in job.depends_on]
        hopeless = any(p is None or (p.ended and p.state != "completed") for p in parents)
        return InvalidContent if hopeless else None

    def expected_answer(self, job: NewJob) -> tuple[SubmissionKind, UUID]:
        """What the submission comes to; the model is changed accordingly."""
        key = job.idempotency
        if key is not None and key.key in self.model.keys:
            _, job_id, deduplicated = self.model.keys[key.key]
            replayed, twice = SubmissionKind.REPLAYED, SubmissionKind.REPLAYED_DEDUPLICATED
            return (twice if deduplicated else replayed), job_id
        twin = self.model.twin(job.unique_key)
        if key is not None:
            made = (key.fingerprint, twin.id if twin else job.id, twin is not None)
            self.model.keys[key.key] = made
        if twin is not None:
            return SubmissionKind.DEDUPLICATED, twin.id
        blocked = any(self.model.jobs[each].state != "completed" for each in job.depends_on)
        due = job.delay_seconds is None
        self.model.submit(
            JobModel(
                job.id,
                "blocked" if blocked else "queued" if due else "scheduled",
                job.max_attempts,
                due=due,
                can_expire=job.ttl_seconds is not None,
                unique_key=job.unique_key,
                parents=frozenset(job.depends_on),
            )
        )
        return SubmissionKind.ACCEPTED, job.id

    @rule(pick=PICKS)
    def submit_again_after_a_lost_answer(self, pick: Pick) -> None:
        job_id = self.pick(pick, lambda job: not job.ended)
        job = self.submissions[job_id]
        # It is sent again within seconds, when the job is there and its key still binds.
        if job_id not in self.model.jobs or not self.key_binds(job):
            return
        answer = self.send(job)
        assert isinstance(answer, Submission)
        assert (answer.kind, answer.job_id) == (SubmissionKind.ACCEPTED, job_id)

    def key_binds(self, job: NewJob) -> bool:
        return job.idempotency is None or job.idempotency.key in self.model.keys

    @when_some(can_be_stopped)
    @rule(pick=PICKS)
    def cancel(self, pick: Pick) -> None:
        job_id = self.pick(pick, can_be_stopped)
        job = self.model.jobs.get(job_id)
        work = commands.cancel(self.connection, TENANT, job_id)
        if job is None:
            self.refused(work, JobNotFound)
        elif job.ended and job.state != "cancelled":
            self.refused(work, JobStateConflict)
        else:
            self.model.cancel(job)
            assert self.run(work) == job.state

    @when_some(ended_badly)
    @rule(pick=PICKS)
    def retry(self, pick: Pick) -> None:
        job_id = self.pick(pick, self.model.can_retry)
        job = self.model.jobs.get(job_id)
        work = commands.retry(self.connection, TENANT, job_id)
        if job is None:
            self.refused(work, JobNotFound)
        elif not self.model.can_retry(job):
            self.refused(work, JobStateConflict)
        else:
            self.model.retry(job)
            assert self.run(work).job_id == job_id

    @when_some(waits)
    @rule(pick=PICKS, to_the_future=st.booleans())
    def reschedule(self, pick: Pick, to_the_future: bool) -> None:
        job_id = self.pick(pick, waits)
        job = self.model.jobs.get(job_id)
        run_at = datetime.now(UTC) + timedelta(hours=1) if to_the_future else None
        work = patching.patch(
            self.connection,
            TENANT,
            job_id,
            JobPatch(run_at=run_at),
            SealingKeyRing({}),
            if_version=None,
        )
        if job is None:
            self.refused(work, JobNotFound)
        elif job.state not in WAITING:
            self.refused(work, JobStateConflict)
        elif job.late:
            self.refused(work, InvalidContent)
        else:
            self.model.reschedule(job, to_the_future=to_the_future)
            assert (self.run(work) is not None) == (job.state == "queued")

    @when_some(ended)
    @rule(pick=PICKS)
    def delete(self, pick: Pick) -> None:
        job_id = self.pick(pick, ended)
        job = self.model.jobs.get(job_id)
        work = commands.delete(self.connection, TENANT, job_id)
        if job is None:
            self.refused(work, JobNotFound)
        elif not job.ended:
            self.refused(work, JobStateConflict)
        else:
            self.run(work)
            del self.model.jobs[job_id]

    def refused(self, work: Coroutine[Any, Any, object], error: type[Exception]) -> None:
        with pytest.raises(error):
            self.run(work)
