"""What workers do: claim, renew and finish, in time and late."""

from dataclasses import replace
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from uuid_utils.compat import uuid7

from taskflow.jobs.attempts import ClaimedJob, Gone, Later, claim
from taskflow.jobs.finishing import Recorded, Stale, finish
from taskflow.jobs.leases import SURRENDER, renew
from taskflow.jobs.notes import save_checkpoint
from taskflow.jobs.outcomes import (
    Attempt,
    JobError,
    Outcome,
    OutcomeKind,
    cancelled,
    completed,
    completed_in_object,
    released,
)
from taskflow_testing.job_machine.machine import (
    PICKS,
    JobMachine,
    Pick,
    distinct,
    is_dispatchable,
    runs,
    when_some,
)
from taskflow_testing.job_model import JobModel
from taskflow_testing.jobs import TENANT

LEASE_SECONDS = 3600.0
"""So long that none runs out but by the rule that says so."""

_BROKE = JobError("oops", "it broke", retryable=True)
OUTCOMES = st.sampled_from(
    [
        completed("1"),
        completed_in_object(f"artifacts/{TENANT}/result.json", 70_000),
        Outcome(OutcomeKind.RETRYABLE, error=_BROKE),
        Outcome(OutcomeKind.RETRYABLE, error=_BROKE, delay_seconds=600.0, artifact_bytes=300),
        Outcome(OutcomeKind.RETRYABLE, error=_BROKE, delay_seconds=4000.0),
        Outcome(OutcomeKind.FAILED, error=_BROKE),
        cancelled(),
        released(),
        replace(released(), artifact_bytes=7),
    ]
)


class WorkerRules(JobMachine):
    """The consumer's writes."""

    @when_some(is_dispatchable)
    @rule(
        picks=st.lists(PICKS, min_size=1, max_size=3),
        worker=st.integers(0, 1),
        knows_type=st.sampled_from([True] * 7 + [False]),
    )
    def claim(self, picks: list[Pick], worker: int, knows_type: bool) -> None:
        job_ids = distinct(*(self.pick(pick, is_dispatchable) for pick in picks))
        self.claim_anew(job_ids, worker, ["echo"] if knows_type else ["other"])

    def claim_anew(self, job_ids: list[UUID], worker: int, types: list[str]) -> None:
        token = uuid7()
        taken = self.claim_with(job_ids, self.workers[worker], token, types)
        for attempt in taken:
            self.claims[attempt.job_id] = (job_ids, token)
            self.held.append(attempt)

    @when_some(runs)
    @rule(pick=PICKS)
    def claim_again_after_a_lost_answer(self, pick: Pick) -> None:
        attempt = self.pick_attempt(pick)
        job_ids, token = self.claims[attempt.job_id]
        self.claim_with(job_ids, attempt.worker_id, token, ["echo"])

    def claim_with(
        self, job_ids: list[UUID], worker_id: UUID, token: UUID, types: list[str]
    ) -> list[Attempt]:
        verdicts = self.run(
            claim(
                self.connection,
                job_ids,
                worker_id=worker_id,
                claim_token=token,
                lease_seconds=LEASE_SECONDS,
                job_types=types,
            )
        )
        taken = []
        for job_id, verdict in zip(job_ids, verdicts, strict=True):
            job = self.model.jobs.get(job_id)
            if job is not None and job.claimable and "echo" in types:
                self.model.claim(job, worker_id, token)
            if job is not None and job.state == "running" and job.token == token:
                assert isinstance(verdict, ClaimedJob)
                assert verdict.attempt == Attempt(job_id, job.attempt, worker_id)
                assert (verdict.attempts_left, verdict.losses) == (
                    job.limit - job.attempt,
                    job.lost,
                )
                taken.append(verdict.attempt)
            elif job is not None and self.comes_later(job):
                assert isinstance(verdict, Later), verdict
            else:
                assert verdict == Gone(job_id)
        return taken

    @staticmethod
    def comes_later(job: JobModel) -> bool:
        return job.state in {"queued", "retrying"} and job.pointer and not job.late

    @when_some(runs)
    @rule(pick=PICKS, outcome=OUTCOMES, again=st.booleans())
    def finish(self, pick: Pick, outcome: Outcome, again: bool) -> None:
        attempt = self.pick_attempt(pick)
        for _ in range(1 + again):
            self.finish_attempt(attempt, outcome)

    @precondition(lambda self: self.outrun())
    @rule(number=st.integers(0, 50), outcome=OUTCOMES)
    def finish_too_late(self, number: int, outcome: Outcome) -> None:
        """A worker that was frozen wakes up when its job has moved on."""
        outrun = self.outrun()
        self.finish_attempt(outrun[number % len(outrun)], outcome)

    def outrun(self) -> list[Attempt]:
        """Attempts that were taken or handed back; those of jobs that run again, if any do."""
        past = [
            attempt
            for attempt in self.held
            if (job := self.model.jobs.get(attempt.job_id)) is not None
            and not job.is_run_by(attempt)
            and attempt not in job.recorded
        ]
        return [attempt for attempt in past if self.runs_again(attempt)] or past

    def finish_attempt(self, attempt: Attempt, outcome: Outcome) -> None:
        (answer,) = self.run(finish(self.connection, [(attempt, outcome)]))
        job = self.model.jobs.get(attempt.job_id)
        if job is not None and job.is_run_by(attempt):
            result = outcome.result_json or outcome.result_object
            self.model.finish(job, attempt, outcome.kind, outcome.delay_seconds, result)
        if job is not None and self.was_recorded(job, attempt, outcome.kind):
            assert isinstance(answer, Recorded)
            assert answer.state == job.state
        else:
            assert answer == Stale(attempt.job_id)
        if outcome.kind is OutcomeKind.RELEASED:
            # Who hands back is on its way out; the next process has an id of its own.
            self.workers = [uuid7() if it == attempt.worker_id else it for it in self.workers]

    @staticmethod
    def was_recorded(job: JobModel, attempt: Attempt, kind: OutcomeKind) -> bool:
        released = kind is OutcomeKind.RELEASED and attempt in job.released
        return released or attempt in job.recorded

    @when_some(runs)
    @rule(pick=PICKS)
    def checkpoint(self, pick: Pick) -> None:
        attempt = self.pick_attempt(pick)
        saved = self.run(save_checkpoint(self.connection, attempt, "1"))
        assert saved == self.is_held(attempt)

    @when_some(runs)
    @rule(pick=PICKS)
    def die(self, pick: Pick) -> None:
        """What renews a worker's leases outlives it for a moment, and ends them."""
        worker_id = self.pick_attempt(pick).worker_id
        self.run(self.connection.execute(SURRENDER, worker_id))
        for job in filter(runs, self.model.jobs.values()):
            if job.worker == worker_id:
                job.lease_over = True

    @when_some(runs)
    @rule(pick=PICKS)
    def renew(self, pick: Pick) -> None:
        """A worker asks for everything that it ever held."""
        worker_id = self.pick_attempt(pick).worker_id
        held = {each for each in self.held if each.worker_id == worker_id}
        kept = self.run(
            renew(
                self.connection,
                [(each.job_id, each.number) for each in held],
                worker_id=worker_id,
                lease_seconds=LEASE_SECONDS,
            )
        )
        expected = set()
        for attempt in filter(self.is_held, held):
            job = self.model.jobs[attempt.job_id]
            job.lease_over = False
            expected.add((job.id, job.attempt, job.cancel_requested))
        assert {(it.job_id, it.attempt_number, it.cancel_requested) for it in kept} == expected
