"""Any sequence of what clients, workers and the scheduler do leaves the rows that the model says.

Hypothesis makes up the sequences. Nothing sleeps: time passes by moving the times in the rows.
"""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    run_state_machine_as_test,
)

from taskflow.doctor import invariants
from taskflow.jobs.outcomes import completed, released
from taskflow.jobs.states import JobEvent
from taskflow_testing.job_machine.client_rules import ClientRules
from taskflow_testing.job_machine.machine import Database
from taskflow_testing.job_machine.time_rules import TimeRules
from taskflow_testing.job_machine.worker_rules import WorkerRules
from taskflow_testing.job_model import JobModel
from taskflow_testing.jobs import new_job

EXAMPLES, STEPS = 200, 50

_TABLES = (
    "jobs",
    "job_events",
    "job_attempts",
    "idempotency_keys",
    "pending_erasures",
    "tenant_usage",
)
_EMPTY = "; ".join(f"DELETE FROM {table}" for table in _TABLES)

_ROWS = """
SELECT id, state::text, attempt, attempt_limit, worker_id, claim_token,
       pointer_at IS NOT NULL AS pointer, run_at <= clock_timestamp() AS due,
       lease_expires_at < clock_timestamp() AS lease_over, cancel_requested,
       coalesce(result::text, result_object) AS result, error ->> 'type' AS error,
       finished_at IS NOT NULL AS finished, has_dependents,
       ARRAY(SELECT (event::text, source::text, target::text, attempt) FROM job_events
             WHERE job_id = jobs.id ORDER BY job_events.id) AS events,
       ARRAY(SELECT (number, outcome) FROM job_attempts
             WHERE job_id = jobs.id ORDER BY number) AS attempts
FROM jobs
"""


@pytest.fixture
def database(clean_database: str) -> Iterator[Database]:
    database = Database(clean_database)
    yield database
    database.close()


class JobsMachine(ClientRules, WorkerRules, TimeRules):
    """Clients, workers and a scheduler at work on one database."""

    @initialize(
        max_attempts=st.integers(1, 3),
        first_attempt=st.sampled_from(["runs", "handed over", "lost and back"]),
        one_is_late=st.booleans(),
    )
    def begin_amid_work(self, max_attempts: int, first_attempt: str, one_is_late: bool) -> None:
        self.run(self.connection.execute(_EMPTY))
        # What nothing waits for is finished by another statement than what has children.
        parent, lone = new_job(max_attempts=max_attempts), new_job(max_attempts=max_attempts)
        child = new_job(depends_on=[parent.id])
        later, mortal = new_job(delay_seconds=3600.0), new_job(ttl_seconds=7200.0)
        for job in (parent, lone, child, later, mortal):
            self.submit_job(job)
        if one_is_late:
            # Its pointer is on its way: whoever claims may be sooner than who lets it expire.
            self.let_expire(self.model.jobs[mortal.id])
        started = [parent.id, lone.id]
        self.claim_anew(started, 0, ["echo"])
        if first_attempt == "handed over":
            self.hand_over(started)
        elif first_attempt == "lost and back":
            for job_id in started:
                self.end_lease(self.model.jobs[job_id])
            self.rescue(broker=True)
            self.claim_anew(started, 0, ["echo"])

    def hand_over(self, started: list[UUID]) -> None:
        """From one worker to another, with the number; the first one is not quite gone."""
        before = list(self.held)
        for attempt in before:
            self.finish_attempt(attempt, released())
        self.claim_anew(started, 1, ["echo"])
        for attempt in before:
            self.finish_attempt(attempt, completed("1"))

    # What must hold.

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        rows = {row["id"]: dict(row) for row in self.run(self.connection.fetch(_ROWS))}
        assert rows == {job.id: _row(job) for job in self.model.jobs.values()}

    def teardown(self) -> None:
        for job in self.model.jobs.values():
            self.seen.update(event for event, *_ in job.events)
        findings = self.run(invariants.run(self.connection, invariants=self.database.invariants))
        assert [violation for finding in findings for violation in finding.violations] == []


def _row(job: JobModel) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "attempt": job.attempt,
        "attempt_limit": job.limit,
        "worker_id": job.worker,
        "claim_token": job.token,
        "pointer": job.pointer,
        "due": job.due,
        "lease_over": job.lease_over,
        "cancel_requested": job.cancel_requested,
        "result": job.result,
        "error": job.error,
        "finished": job.ended,
        "has_dependents": job.has_dependents,
        "events": job.events,
        "attempts": job.attempts,
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rows_are_those_of_the_model(database: Database) -> None:
    class Machine(JobsMachine):
        pass

    Machine.database = database
    Machine.seen = set()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
    # Else the sequences would not have come far enough to show anything.
    assert Machine.seen == set(JobEvent)
