"""Every invariant holds over healthy jobs, and fails over a job that violates it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from taskflow.doctor.dead_messages import DeadMessage
from taskflow.doctor.invariants import Evidence, Need, Scope, load, run
from taskflow.jobs.states import TRANSITIONS
from taskflow_testing.histories import LOG_OBJECT, RESULT_OBJECT, all_kinds
from taskflow_testing.jobs import Jobs

STORED: dict[str, int | None] = {LOG_OBJECT: 100, RESULT_OBJECT: 70_000}


@pytest.fixture
async def made(jobs: Jobs) -> AsyncIterator[dict[str, UUID]]:
    """Healthy jobs, and what their clients and handlers have noted."""
    made = await all_kinds(jobs)
    await jobs.connection.execute(
        """
        CREATE SCHEMA chaos;
        CREATE TABLE chaos.accepted (job_id uuid, idempotency_key text, accepted_at timestamptz);
        CREATE TABLE chaos.effects (job_id uuid, attempt int, worker_pid int, at timestamptz);
        INSERT INTO chaos.accepted SELECT id, 'key ' || id, created_at FROM jobs;
        INSERT INTO chaos.accepted SELECT * FROM chaos.accepted;
        INSERT INTO chaos.effects SELECT id, attempt, 1, now() FROM jobs WHERE state = 'completed';
        """
    )
    yield made
    await jobs.connection.execute("DROP SCHEMA chaos CASCADE")


def evidence(made: dict[str, UUID]) -> Evidence:
    dead = [
        DeadMessage(made["failed"], "failed"),
        DeadMessage(made["lost_for_good"], "worker_lost"),
        DeadMessage(made["retried"], "failed"),
        DeadMessage(made["deleted"], "failed"),
        DeadMessage(made["queued"], None),
        DeadMessage(None, "the body is not JSON"),
    ]
    return Evidence(dead_messages=dead, stored_objects=STORED)


async def test_healthy_jobs_of_every_kind_violate_nothing(
    connection: asyncpg.Connection, made: dict[str, UUID]
) -> None:
    states = {row["state"] for row in await connection.fetch("SELECT state FROM jobs")}
    events = {row["event"] for row in await connection.fetch("SELECT event FROM job_events")}

    findings = await run(connection, evidence=evidence(made))

    assert [finding.invariant.name for finding in findings] == list(load())
    assert [violation for finding in findings for violation in finding.violations] == []
    assert [finding.invariant.code for finding in findings if finding.skipped] == ["I2"]
    assert len(states) == 9
    assert {"submit", "claim", "release", "retry", "lease_lost", "unblock", "due"} <= events


@dataclass(frozen=True)
class Plant:
    """A violation: SQL with `$1` for the job's id, and a part of what is said of it."""

    invariant: str
    job: str
    sql: str
    says: str
    stored: dict[str, int | None] = field(default_factory=lambda: STORED)


DELETED = "DELETE FROM jobs WHERE id = $1"
LATER = "now() + interval '1 h'"
LOG_PART = """INSERT INTO log_chunks
    (job_id, attempt, tenant_id, object_key, byte_offset, byte_length, line_count)
    SELECT id, 1, {tenant}, {key}, 900, 100, 1 FROM jobs WHERE id = $1"""

PLANTS = [
    Plant("I01_accepted_is_stored", "queued", DELETED, "is not in jobs"),
    Plant("I02_all_jobs_end", "scheduled", "SELECT $1::uuid", "is still scheduled"),
    Plant(
        "I03_one_job_per_key",
        "completed",
        "UPDATE idempotency_keys SET tenant_id = gen_random_uuid() WHERE job_id = $1",
        "the key 'key' that names it is of tenant",
    ),
    Plant(
        "I03_one_job_per_key",
        "completed",
        "INSERT INTO idempotency_keys (tenant_id, path, key, fingerprint, job_id, state)"
        " SELECT tenant_id, path, 'other', fingerprint, job_id, state FROM idempotency_keys"
        " WHERE job_id = $1",
        "several keys: 'key', 'other'",
    ),
    Plant(
        "I03_one_job_per_key_for_clients",
        "queued",
        "UPDATE chaos.accepted SET idempotency_key = 'same'"
        " WHERE job_id IN ($1, (SELECT max(id::text)::uuid FROM jobs))",
        "is one of 2 jobs that were accepted under the key 'same'",
    ),
    Plant(
        "I04_result_of_completed",
        "failed",
        "UPDATE jobs SET result = '1' WHERE id = $1",
        "though it is failed",
    ),
    Plant(
        "I04_result_of_completed",
        "completed",
        "UPDATE jobs SET result = NULL WHERE id = $1",
        "without a result",
    ),
    Plant(
        "I04_result_of_completed",
        "in_object",
        "UPDATE jobs SET result = '1' WHERE id = $1",
        "two results",
    ),
    Plant(
        "I04_result_object_is_stored",
        "in_object",
        "SELECT $1::uuid",
        "which is missing",
        stored={RESULT_OBJECT: None},
    ),
    Plant(
        "I05_outcome_of_highest_attempt",
        "completed",
        "UPDATE job_attempts SET outcome = 'lost' WHERE job_id = $1",
        "its highest attempt (1) says lost",
    ),
    Plant(
        "I05_outcome_of_highest_attempt",
        "failed",
        """UPDATE jobs SET error = '{"type": "another"}' WHERE id = $1""",
        "another error",
    ),
    Plant(
        "I05_outcome_of_highest_attempt",
        "retrying",
        "DELETE FROM job_attempts WHERE job_id = $1",
        "is retrying without an attempt",
    ),
    Plant(
        "I05_outcome_of_highest_attempt",
        "queued",
        "INSERT INTO job_attempts SELECT id, 1, tenant_id, NULL, 'completed', NULL, now(), now()"
        " FROM jobs WHERE id = $1",
        "says completed",
    ),
    Plant(
        "I06_attempts_in_order",
        "completed",
        "UPDATE job_attempts SET number = 2 WHERE job_id = $1",
        "an attempt 2 where number 1",
    ),
    Plant(
        "I06_attempts_in_order",
        "completed",
        f"UPDATE job_attempts SET started_at = {LATER} WHERE job_id = $1",
        "ends before it starts",
    ),
    Plant(
        "I06_attempts_in_order",
        "completed",
        f"INSERT INTO job_attempts SELECT job_id, 2, tenant_id, worker_id, outcome, error,"
        f" started_at, {LATER} FROM job_attempts WHERE job_id = $1",
        "before the one before it ended",
    ),
    Plant(
        "I06_attempts_in_order",
        "queued",
        "UPDATE jobs SET attempt = 2 WHERE id = $1",
        "is queued at attempt 2",
    ),
    Plant(
        "I06_attempts_in_order",
        "running",
        "WITH second AS (UPDATE jobs SET attempt = 2 WHERE id = $1 RETURNING id, tenant_id)"
        f" INSERT INTO job_attempts SELECT id, 1, tenant_id, NULL, 'lost', NULL, now(), {LATER}"
        " FROM second",
        "before its last attempt ended",
    ),
    Plant(
        "I07_legal_history",
        "completed",
        "INSERT INTO job_events (job_id, tenant_id, event, source, target, attempt)"
        " SELECT id, tenant_id, 'claim', 'completed', 'running', 2 FROM jobs WHERE id = $1",
        "claim does not lead from completed to running",
    ),
    Plant(
        "I07_legal_history",
        "completed",
        "DELETE FROM job_events WHERE job_id = $1 AND event = 'claim'",
        "starts from running, the one before it led to queued",
    ),
    Plant(
        "I07_legal_history",
        "queued",
        "UPDATE job_events SET target = 'completed' WHERE job_id = $1",
        "does not lead from nothing to completed",
    ),
    Plant(
        "I07_legal_history",
        "queued",
        "UPDATE jobs SET state = 'failed' WHERE id = $1",
        "is failed at attempt 0, its last event (submit) led to queued",
    ),
    Plant(
        "I07_legal_history",
        "queued",
        "DELETE FROM job_events WHERE job_id = $1",
        "has no events",
    ),
    Plant(
        "I08_attempts_within_budget",
        "failed",
        "UPDATE jobs SET attempt = 9 WHERE id = $1",
        "is at attempt 9, its budget ends with 4",
    ),
    Plant(
        "I08_attempts_within_budget",
        "queued",
        "UPDATE jobs SET attempt_limit = 9 WHERE id = $1",
        "has 9 attempts left",
    ),
    Plant(
        "I08_attempts_within_budget",
        "queued",
        "UPDATE jobs SET attempt_limit = 2 WHERE id = $1",
        "less than its 4",
    ),
    Plant(
        "I08_attempts_within_budget",
        "queued",
        "UPDATE jobs SET attempt = 4 WHERE id = $1",
        "is queued without an attempt left",
    ),
    Plant(
        "I08_attempts_within_budget",
        "queued",
        "INSERT INTO job_attempts SELECT id, 9, tenant_id, NULL, 'lost', NULL, now(), now()"
        " FROM jobs WHERE id = $1",
        "has ended attempt 9",
    ),
    Plant(
        "I08_attempts_within_budget",
        "running",
        "UPDATE jobs SET attempt = 2, attempt_limit = 5 WHERE id = $1",
        "0 lost workers do not explain it",
    ),
    Plant(
        "I09_due_jobs_are_sent",
        "due",
        "UPDATE jobs SET pointer_at = NULL, run_at = now() - interval '61 s',"
        " updated_at = now() - interval '61 s' WHERE id = $1",
        "no pointer was sent",
    ),
    Plant(
        "I09_due_jobs_are_sent",
        "queued",
        """
        WITH watermark AS (
            INSERT INTO workers
                (id, host, pid, version, state, queues, job_types, concurrency, watermarks)
            VALUES (gen_random_uuid(), 'h', 1, '1', 'running', '{}', '{}', 1,
                    jsonb_build_object('default.medium', now() - interval '1 s')))
        UPDATE jobs SET pointer_at = now() - interval '106 s' WHERE id = $1""",
        "is lost: pointers of its lane up to",
    ),
    Plant(
        "I10_leases_are_fresh",
        "running",
        "UPDATE jobs SET lease_expires_at = now() - interval '21 s' WHERE id = $1",
        "under a lease that ran out",
    ),
    Plant(
        "I10_leases_are_fresh",
        "running",
        "UPDATE jobs SET lease_expires_at = NULL WHERE id = $1",
        "without a lease",
    ),
    Plant(
        "I11_completed_has_effect",
        "completed",
        "UPDATE chaos.effects SET attempt = 2 WHERE job_id = $1",
        "attempt 1, which had no effect",
    ),
    Plant(
        "I12_one_tenant",
        "queued",
        "UPDATE job_events SET tenant_id = gen_random_uuid() WHERE job_id = $1",
        "has an event of tenant",
    ),
    Plant(
        "I12_one_tenant",
        "failed",
        "UPDATE job_attempts SET tenant_id = gen_random_uuid() WHERE job_id = $1",
        "has an attempt of tenant",
    ),
    Plant(
        "I12_one_tenant",
        "failed",
        LOG_PART.format(tenant="gen_random_uuid()", key=f"'{LOG_OBJECT}'"),
        "has a stretch of log of tenant",
    ),
    Plant(
        "I12_one_tenant",
        "failed",
        LOG_PART.format(tenant="tenant_id", key=f"'logs/{uuid7()}/x.jsonl'"),
        "has its log in logs/",
    ),
    Plant(
        "I12_one_tenant",
        "in_object",
        f"UPDATE jobs SET result_object = 'artifacts/{uuid7()}/x' WHERE id = $1",
        "has its result in artifacts/",
    ),
    Plant("I12_one_tenant", "queued", DELETED, "is gone, and has left an event"),
    Plant(
        "I14_dead_messages_of_failed_jobs",
        "failed",
        "UPDATE job_events SET target = 'retrying' WHERE job_id = $1 AND event = 'fail'",
        "has never failed",
    ),
    Plant(
        "I15_logs_are_stored",
        "completed",
        "SELECT $1::uuid",
        f"the log object {LOG_OBJECT} is missing",
        stored={LOG_OBJECT: None},
    ),
    Plant(
        "I15_logs_are_stored",
        "completed",
        "SELECT $1::uuid",
        "has 99 bytes, the log goes on to byte 100",
        stored={LOG_OBJECT: 99},
    ),
    Plant(
        "I16_blocked_waits_for_a_live_parent",
        "blocked",
        "UPDATE jobs SET state = 'completed' WHERE id = ANY("
        "SELECT unnest(depends_on) FROM jobs WHERE id = $1)",
        "all that it waits for is completed",
    ),
    Plant(
        "I16_blocked_waits_for_a_live_parent",
        "blocked",
        "UPDATE jobs SET state = 'expired' WHERE state = 'queued' AND id = ANY("
        "SELECT unnest(depends_on) FROM jobs WHERE id = $1)",
        "did not complete",
    ),
    Plant(
        "I16_blocked_waits_for_a_live_parent",
        "blocked",
        "UPDATE jobs SET has_dependents = false WHERE id = ANY("
        "SELECT unnest(depends_on) FROM jobs WHERE id = $1)",
        "does not know it",
    ),
    Plant(
        "I16_blocked_waits_for_a_live_parent",
        "queued",
        "UPDATE jobs SET state = 'blocked' WHERE id = $1",
        "all that it waits for is completed",
    ),
    Plant(
        "I17_use_is_counted",
        "completed",
        "INSERT INTO tenant_usage (tenant_id, waiting_jobs)"
        " SELECT tenant_id, 1 FROM jobs WHERE id = $1",
        "whose waiting_jobs are",
    ),
    Plant(
        "I17_use_is_counted",
        "completed",
        "INSERT INTO tenant_usage (tenant_id, completed_jobs)"
        " SELECT tenant_id, -1 FROM jobs WHERE id = $1",
        "whose completed_jobs are",
    ),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.invariant}-{plant.says[:24]}")
async def test_a_planted_violation_is_found(
    connection: asyncpg.Connection, made: dict[str, UUID], plant: Plant
) -> None:
    await connection.fetch(plant.sql, made[plant.job])
    quiet = load()[plant.invariant].need is Need.QUIET
    given = evidence(made)
    given = Evidence(quiet, given.dead_messages, plant.stored)

    findings = await run(connection, invariants=[load()[plant.invariant]], evidence=given)

    (finding,) = findings
    said = [each.problem for each in finding.violations if each.job_id == made[plant.job]]
    assert any(plant.says in problem for problem in said), finding.violations
    assert not finding.holds


def test_every_invariant_has_a_plant() -> None:
    assert {plant.invariant for plant in PLANTS} == set(load())


def test_the_legal_edges_are_those_of_the_table_of_states() -> None:
    sql = load()["I07_legal_history"].sql
    for event, transition in TRANSITIONS.items():
        (line,) = (line for line in sql.splitlines() if f"('{event}'," in line)
        sources, targets = (
            set(filter(None, part.split("}")[0].split(","))) for part in line.split("'{")[1:]
        )
        assert (sources, targets) == (
            {str(state) for state in transition.sources},
            {str(state) for state in transition.targets},
        ), event


async def test_nothing_is_written_and_the_session_is_left_as_it_was(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    before = await connection.fetchval("SHOW statement_timeout")
    await run(connection)
    assert await connection.fetchval("SHOW statement_timeout") == before
    assert await connection.fetchval("SHOW transaction_read_only") == "off"
    await jobs.submit()


async def test_jobs_before_the_scope_are_not_looked_at(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    old, new = await jobs.submit(), await jobs.submit()
    await connection.execute("UPDATE jobs SET attempt = 9")

    findings = await run(connection, scope=Scope(first_job=new))

    found = {violation.job_id for finding in findings for violation in finding.violations}
    assert new in found
    assert old not in found


async def test_all_violations_are_counted_and_the_first_are_returned(
    connection: asyncpg.Connection, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow.doctor.invariants.RETURNED", 20)
    made = sorted([await jobs.submit() for _ in range(25)])
    await connection.execute("UPDATE jobs SET attempt = 9")
    findings = {finding.invariant.name: finding for finding in await run(connection)}
    finding = findings["I08_attempts_within_budget"]
    assert finding.count == 25
    assert [violation.job_id for violation in finding.violations] == made[:20]


async def test_a_look_that_takes_too_long_is_said_and_stops_no_other(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    for _ in range(50):
        await jobs.submit()
    names = ("I08_attempts_within_budget", "I12_one_tenant")
    slow, other = (load()[name] for name in names)
    slow = replace(slow, sql="SELECT id AS job_id, pg_sleep(9)::text AS problem FROM jobs")

    findings = await run(
        connection, invariants=[slow, other], scope=Scope(statement_timeout_seconds=0.2)
    )

    assert findings[0].unanswered
    assert not findings[0].holds
    assert findings[1].holds
