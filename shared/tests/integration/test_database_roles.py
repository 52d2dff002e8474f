"""What each database role may do, by PostgreSQL's own catalogue: no more than is listed here.

A new table fails here until it says whose it is.
"""

import json
import re
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from taskflow.db.models import metadata
from taskflow.db.roles import DatabaseRole, connect_as
from taskflow.db.tenants import DEFAULT_TENANT_ID, begin_for
from taskflow_testing.api_keys import make_key
from taskflow_testing.jobs import Jobs

TENANT, INTAKE, API = DatabaseRole.TENANT, DatabaseRole.INTAKE, DatabaseRole.API
CONSUMER, SCHEDULER = DatabaseRole.CONSUMER, DatabaseRole.SCHEDULER

NOBODYS = {"workers", "job_types", "alembic_version"}
"""The tables without a tenant. A table of tenants is isolated by its migration (`row_security`)."""

ISOLATED_BY = {"tenants": "id"}
"""The tables whose rows name their tenant in another column than `tenant_id`."""

# A right on a table, and `*` or the columns that it is for.
RIGHTS: dict[DatabaseRole, dict[str, dict[str, str]]] = {
    TENANT: {
        "jobs": {
            "SELECT": "*",
            "INSERT": "*",
            "DELETE": "*",
            "UPDATE": "attempt_limit attribute_bytes cancel_requested error expires_at finished_at"
            " has_dependents metadata payload payload_bytes pointer_at priority progress_message"
            " progress_percent run_at state tags updated_at",
        },
        "job_events": {"SELECT": "*", "INSERT": "*", "DELETE": "*"},
        "job_attempts": {"SELECT": "*", "DELETE": "*"},
        "idempotency_keys": {
            "SELECT": "*",
            "INSERT": "*",
            "UPDATE": "created_at deduplicated fingerprint job_id state",
        },
        "log_chunks": {"SELECT": "*", "DELETE": "*"},
        "pending_erasures": {"INSERT": "*"},
        "api_keys": {
            "SELECT": "created_at created_by_id created_by_kind expires_at id key_id last_used_at"
            " name replaces revoked_at scopes tenant_id",
            "INSERT": "*",
            "UPDATE": "name revoked_at",
        },
        "audit_log": {"SELECT": "*", "INSERT": "*"},
        "tenant_quotas": {"SELECT": "*"},
        "tenant_usage": {"SELECT": "*", "INSERT": "*", "DELETE": "*"},
        "workers": {"SELECT": "*"},
        "job_types": {"SELECT": "*"},
        "tenants": {"INSERT": "*", "SELECT": "id is_registered"},
        "users": {
            "SELECT": "created_at disabled_at email id tenant_id",
            "INSERT": "*",
            "UPDATE": "password_hash",
        },
        "user_sessions": {
            "SELECT": "*",
            "INSERT": "*",
            "DELETE": "*",
            "UPDATE": "end_reason ended_at",
        },
        "refresh_tokens": {"SELECT": "*", "INSERT": "*", "UPDATE": "used_at"},
        "alembic_version": {"SELECT": "*"},
    },
    INTAKE: {
        "jobs": {
            "SELECT": "attribute_bytes created_at expires_at id max_attempts payload_bytes"
            " pointer_at queue run_at state tenant_id timeout_seconds",
            "INSERT": "*",
        },
        "job_events": {"SELECT": "event job_id target", "INSERT": "*"},
        "idempotency_keys": {
            "SELECT": "*",
            "INSERT": "*",
            "UPDATE": "created_at deduplicated fingerprint job_id state",
        },
        "tenant_quotas": {"SELECT": "*"},
        "tenant_usage": {"SELECT": "*", "INSERT": "*", "DELETE": "*"},
        "tenants": {"SELECT": "id is_registered"},
        "alembic_version": {"SELECT": "*"},
    },
    API: {
        "jobs": {
            "SELECT": "attempt id pointer_at priority queue state type",
            "UPDATE": "pointer_at",
        },
        "tenants": {"SELECT": "id is_registered name"},
        "users": {"SELECT": "disabled_at email id password_hash tenant_id"},
        "user_sessions": {"SELECT": "address ended_at expires_at id tenant_id user_id"},
        "refresh_tokens": {"SELECT": "session_id tenant_id token_hash"},
        "api_keys": {
            "SELECT": "expires_at id key_id last_used_at revoked_at scopes secret_hash tenant_id",
            "UPDATE": "last_used_at",
        },
        "alembic_version": {"SELECT": "*"},
    },
    CONSUMER: {
        "jobs": {
            "SELECT": "*",
            "UPDATE": "artifact_bytes attempt checkpoint claim_token error finished_at"
            " lease_expires_at pointer_at progress_message progress_percent result result_bytes"
            " result_object run_at started_at state updated_at worker_id",
        },
        "job_events": {"SELECT": "*", "INSERT": "*"},
        "job_attempts": {"SELECT": "*", "INSERT": "*"},
        "log_chunks": {"SELECT": "*", "INSERT": "*", "DELETE": "*"},
        "pending_erasures": {"INSERT": "*"},
        "workers": {
            "SELECT": "*",
            "INSERT": "*",
            "UPDATE": "concurrency heartbeat_at host job_types pid queues state version watermarks",
        },
        "job_types": {
            "SELECT": "*",
            "INSERT": "*",
            "UPDATE": "description max_attempts queue schema timeout_seconds updated_at",
        },
        "tenant_quotas": {"SELECT": "*"},
        "tenant_usage": {"SELECT": "*", "INSERT": "*"},
        "alembic_version": {"SELECT": "*"},
    },
    SCHEDULER: {
        "jobs": {
            "SELECT": "*",
            "UPDATE": "attempt_limit claim_token error finished_at lease_expires_at pointer_at"
            " run_at state updated_at worker_id",
        },
        "job_events": {"SELECT": "*", "INSERT": "*"},
        "job_attempts": {"SELECT": "*", "INSERT": "*"},
        "idempotency_keys": {"SELECT": "*", "DELETE": "*", "UPDATE": "created_at"},
        "log_chunks": {"SELECT": "*"},
        "pending_erasures": {"SELECT": "*", "DELETE": "*", "UPDATE": "due_at tries"},
        "workers": {"SELECT": "*", "DELETE": "*"},
        "job_types": {"SELECT": "*"},
        "tenants": {"SELECT": "*"},
        "tenant_quotas": {"SELECT": "*"},
        "tenant_usage": {"SELECT": "*", "INSERT": "*", "DELETE": "*"},
        "api_keys": {"SELECT": "expires_at id revoked_at", "DELETE": "*", "UPDATE": "created_at"},
        "audit_log": {"SELECT": "created_at id", "DELETE": "*"},
        "user_sessions": {"SELECT": "expires_at id", "DELETE": "*", "UPDATE": "created_at"},
        "refresh_tokens": {"SELECT": "session_id token_hash", "DELETE": "*"},
        "alembic_version": {"SELECT": "*"},
    },
}


_GRANTED = """
SELECT relname AS name, acl.privilege_type AS kind, '*' AS columns
FROM pg_class, aclexplode(relacl) AS acl
WHERE relnamespace = 'public'::regnamespace AND acl.grantee = $1::regrole
UNION ALL
SELECT relname, acl.privilege_type, string_agg(attname, ' ' ORDER BY attname COLLATE "C")
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl) AS acl
WHERE relnamespace = 'public'::regnamespace AND acl.grantee = $1::regrole
GROUP BY relname, acl.privilege_type
"""


@pytest.mark.parametrize("role", DatabaseRole)
async def test_a_role_has_its_rights_and_no_others(
    connection: asyncpg.Connection, role: DatabaseRole
) -> None:
    granted: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(_GRANTED, role.value):
        granted.setdefault(row["name"], {})[row["kind"]] = row["columns"]
    assert granted == RIGHTS[role]


async def test_everybody_has_no_right(connection: asyncpg.Connection) -> None:
    open_to_all = await connection.fetch(
        "SELECT relname FROM pg_class, aclexplode(relacl) AS acl"
        " WHERE relnamespace = 'public'::regnamespace AND acl.grantee = 0"
    )
    assert open_to_all == []


async def test_a_role_is_no_way_in_and_stands_alone(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch(
        "SELECT rolname, rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole AS strong,"
        " (SELECT count(*) FROM pg_auth_members WHERE member = pg_roles.oid) AS memberships"
        " FROM pg_roles WHERE rolname = ANY($1::text[])",
        [role.value for role in DatabaseRole],
    )
    assert {row["rolname"] for row in rows} == {role.value for role in DatabaseRole}
    assert not [row for row in rows if row["strong"] or row["memberships"]]


_TABLES = """
SELECT relname AS name, relrowsecurity AND relforcerowsecurity AS forced,
       (SELECT array_agg(attname::text) FROM pg_attribute
        WHERE attrelid = pg_class.oid AND attnum > 0) AS columns,
       (SELECT jsonb_object_agg(role, jsonb_build_array(polcmd,
                   pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)))::text
        FROM pg_policy, unnest(polroles) AS member, LATERAL (SELECT member::regrole::text AS role)
        WHERE polrelid = pg_class.oid AND polpermissive) AS policies
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
"""
_OWN = {
    TENANT: r"\({column} = \( SELECT \(NULLIF\(current_setting\('taskflow.tenant'::text, true\),"
    r" ''::text\)\)::uuid AS .*\)\)",
    INTAKE: r"\(array_position\(\( SELECT \(NULLIF\(current_setting\('taskflow.tenants'::text,"
    r" true\), ''::text\)\)::uuid\[\] AS .*\), {column}\) IS NOT NULL\)",
}


async def test_every_table_of_tenants_is_isolated(connection: asyncpg.Connection) -> None:
    tables = {row["name"]: row for row in await connection.fetch(_TABLES)}
    assert tables.keys() == metadata.tables.keys() | {"alembic_version"}
    for name in NOBODYS:
        assert "tenant_id" not in tables[name]["columns"]
    for name in tables.keys() - NOBODYS:
        column = ISOLATED_BY.get(name, "tenant_id")
        assert column in tables[name]["columns"]
        assert tables[name]["forced"], f"{name}: no row-level security; see db/row_security.py"
        policies = json.loads(tables[name]["policies"])
        with_rights = {role for role in DatabaseRole if name in RIGHTS[role]} | {TENANT}
        assert policies.keys() == with_rights, name
        # The owner inherits from these: it would see no row otherwise, nor would a backup.
        assert policies.keys() - {TENANT, INTAKE}, name
        for role, (command, reads, writes) in policies.items():
            assert command == "*"
            assert reads == writes
            pattern = _OWN.get(role, "true").replace("{column}", column)
            assert re.fullmatch(pattern, reads), f"{name}, {role}: {reads}"


@pytest.fixture
async def tenant(clean_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection under the tenants' role, in nobody's name."""
    connection = await connect_as(TENANT, clean_database, server_settings={})
    yield connection
    await connection.close()


TABLES_OF_TENANTS = sorted(
    table for table, rights in RIGHTS[TENANT].items() if table not in NOBODYS and "SELECT" in rights
)


@pytest.mark.parametrize("name", TABLES_OF_TENANTS)
async def test_without_a_tenant_there_is_no_row(
    jobs: Jobs, tenant: asyncpg.Connection, name: str
) -> None:
    await fill(jobs)
    count = f"SELECT count(*) FROM {name}"
    assert await jobs.connection.fetchval(count) > 0
    assert await tenant.fetchval(count) == 0
    await tenant.execute(begin_for(DEFAULT_TENANT_ID))
    assert await tenant.fetchval(count) > 0
    await tenant.execute("COMMIT")
    # What PostgreSQL leaves of the setting is no name either.
    assert await tenant.fetchval(count) == 0


async def fill(jobs: Jobs) -> None:
    """A row in each table of tenants."""
    claimed = await jobs.start()
    job_id = claimed.attempt.job_id
    await jobs.connection.execute(
        "INSERT INTO job_attempts SELECT id, 1, tenant_id, NULL, 'failed', NULL, now(), now()"
        " FROM jobs WHERE id = $1",
        job_id,
    )
    await jobs.connection.execute(
        "INSERT INTO log_chunks (job_id, attempt, tenant_id, object_key, byte_offset, byte_length,"
        " line_count) SELECT id, 1, tenant_id, 'logs/x', 0, 10, 1 FROM jobs WHERE id = $1",
        job_id,
    )
    await jobs.connection.execute(
        "INSERT INTO idempotency_keys (tenant_id, path, key, fingerprint, job_id, state)"
        " SELECT tenant_id, '/', 'k', 'f', id, state FROM jobs WHERE id = $1",
        job_id,
    )
    await jobs.connection.execute(
        "INSERT INTO tenant_quotas (tenant_id) SELECT tenant_id FROM jobs WHERE id = $1", job_id
    )
    await make_key(jobs.connection)
    await make_user(jobs.connection)


async def make_user(connection: asyncpg.Connection) -> None:
    """A user with a session and a refresh token."""
    user_id, session_id = uuid4(), uuid4()
    await connection.execute(
        "INSERT INTO users (id, tenant_id, email, password_hash) VALUES ($1, $2, 'a@b', 'h')",
        user_id,
        DEFAULT_TENANT_ID,
    )
    await connection.execute(
        "INSERT INTO user_sessions (id, tenant_id, user_id, scopes, address, expires_at)"
        " VALUES ($1, $2, $3, '{}', '192.0.2.1', now())",
        session_id,
        DEFAULT_TENANT_ID,
        user_id,
    )
    await connection.execute(
        "INSERT INTO refresh_tokens (token_hash, tenant_id, session_id) VALUES ('h', $1, $2)",
        DEFAULT_TENANT_ID,
        session_id,
    )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT name FROM tenants",
        "SELECT count(*) FROM pending_erasures",
        "UPDATE jobs SET tenant_id = gen_random_uuid()",
        "UPDATE jobs SET attempt = 0",
        "UPDATE job_events SET attempt = 0",
        "DELETE FROM idempotency_keys",
        "SELECT secret_hash FROM api_keys",
        "UPDATE api_keys SET scopes = '{admin}'",
        "DELETE FROM api_keys",
        "SELECT password_hash FROM users",
        "UPDATE users SET email = 'mine'",
        "UPDATE users SET disabled_at = NULL",
        "DELETE FROM users",
        "UPDATE user_sessions SET expires_at = 'infinity'",
        "UPDATE user_sessions SET scopes = '{admin}'",
        "DELETE FROM refresh_tokens",
        "UPDATE tenants SET name = 'mine'",
        "UPDATE audit_log SET actor_id = 'somebody'",
        "DELETE FROM audit_log",
        "UPDATE workers SET host = 'mine'",
        "DELETE FROM job_types",
        "UPDATE alembic_version SET version_num = '9999'",
        "CREATE TABLE mine (id int)",
        "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY",
    ],
)
async def test_a_request_can_do_nothing_else(tenant: asyncpg.Connection, statement: str) -> None:
    await tenant.execute(begin_for(DEFAULT_TENANT_ID))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await tenant.execute(statement)


async def test_a_request_writes_nothing_in_anothers_name(
    jobs: Jobs, tenant: asyncpg.Connection
) -> None:
    theirs = await jobs.submit(tenant_id=uuid4())
    await tenant.execute(begin_for(DEFAULT_TENANT_ID))
    assert await tenant.execute("UPDATE jobs SET priority = 'low'") == "UPDATE 0"
    assert await tenant.execute("DELETE FROM jobs") == "DELETE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await tenant.execute(
            "INSERT INTO job_events (job_id, tenant_id, event, target, attempt)"
            " VALUES ($1, $2, 'cancel', 'cancelled', 0)",
            theirs,
            uuid4(),
        )
