"""quotas"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from taskflow.db.roles import DatabaseRole
from taskflow.db.row_security import expose, isolate

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TENANT, INTAKE = DatabaseRole.TENANT, DatabaseRole.INTAKE
CONSUMER, SCHEDULER = DatabaseRole.CONSUMER, DatabaseRole.SCHEDULER

# Whoever changes what a tenant uses adds a row; who folds takes them out.
GRANTS = {
    TENANT: {
        "tenant_quotas": "SELECT",
        "tenant_usage": "SELECT, INSERT, DELETE",
        "jobs": "UPDATE (payload_bytes, attribute_bytes)",
    },
    INTAKE: {
        "jobs": "SELECT (payload_bytes, attribute_bytes)",
        "tenant_quotas": "SELECT",
        "tenant_usage": "SELECT, INSERT, DELETE",
    },
    CONSUMER: {
        "jobs": "UPDATE (result_bytes, artifact_bytes)",
        "tenant_quotas": "SELECT",
        "tenant_usage": "SELECT, INSERT",
    },
    SCHEDULER: {
        "tenant_quotas": "SELECT",
        "tenant_usage": "SELECT, INSERT, DELETE",
    },
}

WAITING = "('blocked', 'queued', 'retrying', 'scheduled')"
DISPATCHABLE = "('queued', 'retrying')"

# What is there already; a result in the object store, and artifacts, count from the next ones on.
COUNT = f"""
INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, running_jobs)
SELECT tenant_id,
       count(*) FILTER (WHERE state IN {WAITING}),
       sum(2048 + payload_bytes + attribute_bytes + artifact_bytes + coalesce(result_bytes, 0)),
       count(*) FILTER (WHERE state = 'running')
FROM jobs GROUP BY tenant_id
"""


def upgrade() -> None:
    # One pass over the table for both; the results that are inline are counted in it. An UPDATE
    # would write each of these rows once more, with an entry in every index. The sizes of payloads
    # and attributes (the metadata alone) are generated for what is there; from then on who stores
    # a job says them, as before sealing. A process of an older version says none.
    op.execute("ALTER TABLE jobs ADD result_bytes integer")
    op.execute("ALTER TABLE jobs ADD artifact_bytes bigint NOT NULL DEFAULT 0")
    op.execute(
        "ALTER TABLE jobs ADD payload_bytes integer NOT NULL GENERATED ALWAYS AS"
        " (octet_length(payload::text)) STORED,"
        " ADD attribute_bytes integer NOT NULL GENERATED ALWAYS AS"
        " (CASE metadata WHEN '{}' THEN 0 ELSE octet_length(metadata::text) END) STORED,"
        " ALTER result_bytes TYPE integer USING octet_length(result::text)"
    )
    for column in ("payload_bytes", "attribute_bytes"):
        op.execute(f"ALTER TABLE jobs ALTER {column} DROP EXPRESSION")
        op.execute(f"ALTER TABLE jobs ALTER {column} SET DEFAULT 0")
    op.create_table(
        "tenant_quotas",
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=True)
            for name in ("waiting_jobs", "kept_bytes", "running_jobs")
        ),
        sa.CheckConstraint(
            "least(waiting_jobs, kept_bytes, running_jobs) >= 0",
            name="not_negative",
        ),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenant_quotas")),
    )
    op.create_table(
        "tenant_usage",
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("waiting_jobs", "kept_bytes", "running_jobs")
        ),
    )
    op.create_index("ix_tenant_usage_tenant", "tenant_usage", ["tenant_id"], unique=False)
    # It turns over all the time and holds little: what is dead in it has to go soon.
    op.execute(
        "ALTER TABLE tenant_usage SET"
        " (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000)"
    )
    op.execute(COUNT)
    for table in ("tenant_quotas", "tenant_usage"):
        for statement in isolate(table, services=(CONSUMER, SCHEDULER), intake=True):
            op.execute(statement)
    make_indexes()
    for role, rights in GRANTS.items():
        for table, privileges in rights.items():
            op.execute(f"GRANT {privileges} ON {table} TO {role}")


def make_indexes() -> None:
    """For held jobs, and for whose turn it is; `infinity` now means held, not undispatched."""
    op.create_index(
        "ix_jobs_held",
        "jobs",
        ["tenant_id", "queue", "priority", "run_at"],
        unique=False,
        postgresql_where=sa.text(f"pointer_at = 'infinity' AND state IN {DISPATCHABLE}"),
    )
    op.create_index(
        "ix_jobs_turn",
        "jobs",
        ["queue", "priority", sa.text("uuid_send(tenant_id)"), "pointer_at"],
        unique=False,
        postgresql_where=sa.text(
            f"CASE WHEN state IN {DISPATCHABLE} THEN pointer_at END < 'infinity'"
        ),
    )
    op.drop_index("ix_jobs_undispatched_lane", table_name="jobs")
    make_undispatched_lane("-infinity")


def make_undispatched_lane(none: str) -> None:
    op.create_index(
        "ix_jobs_undispatched_lane",
        "jobs",
        ["queue", "priority", "run_at"],
        unique=False,
        postgresql_where=sa.text(
            f"coalesce(pointer_at, '{none}') = '{none}'"
            " AND state IN ('queued', 'retrying', 'scheduled')"
        ),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_held", table_name="jobs")
    op.drop_index("ix_jobs_turn", table_name="jobs")
    # The scheduler of before sends what was held.
    op.execute("UPDATE jobs SET pointer_at = NULL WHERE pointer_at = 'infinity'")
    op.drop_index("ix_jobs_undispatched_lane", table_name="jobs")
    make_undispatched_lane("infinity")
    for table in ("tenant_quotas", "tenant_usage"):
        for statement in expose(table):
            op.execute(statement)
        op.drop_table(table)
    op.execute(
        "ALTER TABLE jobs DROP payload_bytes, DROP attribute_bytes,"
        " DROP result_bytes, DROP artifact_bytes"
    )
