"""tenants"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from taskflow.db.roles import DatabaseRole
from taskflow.db.row_security import expose, isolate
from taskflow.errors import ConfigurationError

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TENANT, INTAKE, API = DatabaseRole.TENANT, DatabaseRole.INTAKE, DatabaseRole.API
CONSUMER, SCHEDULER = DatabaseRole.CONSUMER, DatabaseRole.SCHEDULER
ROLES = (TENANT, INTAKE, API, CONSUMER, SCHEDULER)

DEFAULT_TENANT = "00000000-0000-7000-8000-000000000001"

# Each table of tenants, and which services look at it across all of them; in the order in which
# the statements of running services lock them, so that none of those meets us in a deadlock.
ISOLATED = {
    "idempotency_keys": (SCHEDULER,),
    "jobs": (API, CONSUMER, SCHEDULER),
    "job_events": (CONSUMER, SCHEDULER),
    "job_attempts": (CONSUMER, SCHEDULER),
    "log_chunks": (CONSUMER, SCHEDULER),
    "pending_erasures": (CONSUMER, SCHEDULER),
}

TAKEN_IN = {"jobs", "job_events", "idempotency_keys"}

# FOR UPDATE asks for UPDATE of some column.
GRANTS = {
    TENANT: {
        "jobs": """SELECT, INSERT, DELETE, UPDATE (
            state, priority, payload, tags, metadata, has_dependents, run_at, expires_at,
            attempt_limit, pointer_at, cancel_requested, error, progress_percent,
            progress_message, updated_at, finished_at)""",
        "job_events": "SELECT, INSERT, DELETE",
        "job_attempts": "SELECT, DELETE",
        "idempotency_keys": """SELECT, INSERT, UPDATE (
            fingerprint, job_id, state, deduplicated, created_at)""",
        "log_chunks": "SELECT, DELETE",
        "pending_erasures": "INSERT",
        "workers": "SELECT",
        "job_types": "SELECT",
        "alembic_version": "SELECT",
    },
    INTAKE: {
        "jobs": """INSERT, SELECT (
            id, tenant_id, state, queue, run_at, expires_at, timeout_seconds, max_attempts,
            pointer_at, created_at)""",
        "job_events": "INSERT, SELECT (job_id, event, target)",
        "idempotency_keys": """SELECT, INSERT, UPDATE (
            fingerprint, job_id, state, deduplicated, created_at)""",
        "alembic_version": "SELECT",
    },
    API: {
        "jobs": """SELECT (id, type, queue, priority, state, attempt, pointer_at),
            UPDATE (pointer_at)""",
        "alembic_version": "SELECT",
    },
    CONSUMER: {
        "jobs": """SELECT, UPDATE (
            state, attempt, worker_id, claim_token, lease_expires_at, run_at, pointer_at,
            result, result_object, error, progress_percent, progress_message, checkpoint,
            updated_at, started_at, finished_at)""",
        "job_events": "SELECT, INSERT",
        "job_attempts": "SELECT, INSERT",
        "log_chunks": "SELECT, INSERT, DELETE",
        "pending_erasures": "INSERT",
        "workers": """SELECT, INSERT, UPDATE (
            host, pid, version, state, queues, job_types, concurrency, watermarks,
            heartbeat_at)""",
        "job_types": """SELECT, INSERT, UPDATE (
            schema, queue, max_attempts, timeout_seconds, description, updated_at)""",
        "alembic_version": "SELECT",
    },
    SCHEDULER: {
        "jobs": """SELECT, UPDATE (
            state, attempt_limit, worker_id, claim_token, lease_expires_at, run_at, pointer_at,
            error, updated_at, finished_at)""",
        "job_events": "SELECT, INSERT",
        "job_attempts": "SELECT, INSERT",
        "idempotency_keys": "SELECT, DELETE, UPDATE (created_at)",
        "log_chunks": "SELECT",
        "pending_erasures": "SELECT, DELETE, UPDATE (tries, due_at)",
        "workers": "SELECT, DELETE",
        "job_types": "SELECT",
        "tenants": "SELECT",
        "alembic_version": "SELECT",
    },
}

# The roles belong to the server, not to the database: others may have made them, or be about to.
CREATE_ROLE = """
DO $$ BEGIN
    CREATE ROLE {role} NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$
"""
# Whoever owns the tables can work with them, under each role and with what each may see: one that
# doesn't inherit from the roles would see no row, and no error either.
JOIN_ROLE = """
DO $$ BEGIN
    GRANT {role} TO CURRENT_USER{options};
EXCEPTION WHEN unique_violation OR insufficient_privilege THEN NULL;
END $$
"""
HAS_JOINED = """
SELECT pg_has_role('{role}', 'USAGE') AND pg_has_role('{role}',
    CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
"""


def upgrade() -> None:
    make_roles()
    op.create_table(
        "tenants",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    op.execute(f"INSERT INTO tenants (id, name) VALUES ('{DEFAULT_TENANT}', 'default')")
    statements = isolate("tenants", column="id", services=[SCHEDULER], intake=True)
    for table, services in ISOLATED.items():
        statements += isolate(table, services=services, intake=table in TAKEN_IN)
    for statement in statements:
        op.execute(statement)
    make_indexes()
    for role, rights in GRANTS.items():
        op.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        for table, privileges in rights.items():
            op.execute(f"GRANT {privileges} ON {table} TO {role}")


def make_indexes() -> None:
    """What lists need now that a state is compared below a policy: no index column for it."""
    op.drop_index("ix_jobs_ended_badly", table_name="jobs")
    ended = "state IN ('cancelled', 'expired', 'failed')"
    for name, columns, where in (
        ("ix_jobs_ended_badly", ["tenant_id", "created_at", "id"], ended),
        ("ix_jobs_failed", ["tenant_id", "created_at", "id"], "state = 'failed'"),
        ("ix_jobs_blocked", ["tenant_id"], "state = 'blocked'"),
    ):
        op.create_index(name, "jobs", columns, unique=False, postgresql_where=sa.text(where))


def make_roles() -> None:
    """Make what is missing, and let the one who migrates take each and inherit from it.

    Raises:
        ConfigurationError: it may not; with what an administrator has to run first.
    """
    bind = op.get_bind()
    user, may_create = bind.exec_driver_sql(
        "SELECT rolname, rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    ).one()
    there = set(bind.exec_driver_sql("SELECT rolname FROM pg_roles").scalars())
    missing = [role for role in ROLES if role not in there]
    options = joining_options(bind)
    if missing and not may_create:
        raise refusal(user, missing, ROLES, options)
    for role in missing:
        op.execute(CREATE_ROLE.format(role=role))
    for name in foreign_to(bind):
        op.execute(JOIN_ROLE.format(role=name, options=options))
    if foreign := foreign_to(bind):
        raise refusal(user, [], foreign, options)


def foreign_to(bind: sa.Connection) -> list[str]:
    """The roles that the one who migrates may not take, or doesn't inherit from."""
    return [
        role
        for role in ROLES
        if not bind.exec_driver_sql(HAS_JOINED.format(role=role)).scalar_one()
    ]


def joining_options(bind: sa.Connection) -> str:
    """What a GRANT of a role says since PostgreSQL 16; before, the login itself inherits or not."""
    has_them = bind.exec_driver_sql("SELECT current_setting('server_version_num')::int >= 160000")
    return " WITH INHERIT TRUE, SET TRUE" if has_them.scalar_one() else ""


def refusal(
    user: str, missing: Sequence[str], foreign: Sequence[str], options: str
) -> ConfigurationError:
    creations = "".join(f"CREATE ROLE {role} NOLOGIN; " for role in missing)
    inheriting = "" if options else f'ALTER ROLE "{user}" INHERIT; '
    return ConfigurationError(
        f"the login {user} may not make or take the roles that TaskFlow's processes work under, or"
        f" doesn't inherit from them. Have an administrator of PostgreSQL run: {creations}"
        f'{inheriting}GRANT {", ".join(foreign)} TO "{user}"{options}; and then run'
        " 'make migrate' again. Servers of 'make up' get them by 'make down up'."
    )


def downgrade() -> None:
    # The roles stay: other databases of this server may use them.
    for role, rights in GRANTS.items():
        for table in rights:
            op.execute(f"REVOKE ALL ON {table} FROM {role}")
        op.execute(f"REVOKE ALL ON SCHEMA public FROM {role}")
    for name in ("ix_jobs_blocked", "ix_jobs_failed", "ix_jobs_ended_badly"):
        op.drop_index(name, table_name="jobs")
    op.create_index(
        "ix_jobs_ended_badly",
        "jobs",
        ["tenant_id", "state", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('cancelled', 'expired', 'failed')"),
    )
    for table in ISOLATED:
        for statement in expose(table):
            op.execute(statement)
    op.drop_table("tenants")
