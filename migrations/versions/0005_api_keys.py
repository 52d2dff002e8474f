"""API keys and the audit log"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from taskflow.db.roles import DatabaseRole
from taskflow.db.row_security import deletes_only, isolate

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TENANT, API, SCHEDULER = DatabaseRole.TENANT, DatabaseRole.API, DatabaseRole.SCHEDULER

# What the API does in nobody's name: to find out whose a key is, and to note that it was used. The
# scheduler deletes what was kept long enough.
ISOLATED = {"api_keys": (API, SCHEDULER), "audit_log": (SCHEDULER,)}

# Who has taken a scheduler over takes nobody's key away, nor the traces that he has left since.
DELETABLE = {
    "api_keys": "least(revoked_at, expires_at) < now()",
    "audit_log": "created_at < now() - interval '30 days'",
}

# No request reads the hash of a secret, and none changes what was written down about it.
GRANTS = {
    TENANT: {
        "api_keys": """INSERT, SELECT (
            id, tenant_id, key_id, name, scopes, created_by_kind, created_by_id, created_at,
            expires_at, revoked_at, replaces, last_used_at), UPDATE (name, revoked_at)""",
        "audit_log": "SELECT, INSERT",
    },
    API: {
        "api_keys": """SELECT (
            id, tenant_id, key_id, secret_hash, scopes, expires_at, revoked_at, last_used_at),
            UPDATE (last_used_at)""",
    },
    # FOR UPDATE asks for UPDATE of some column.
    SCHEDULER: {
        "api_keys": "SELECT (id, expires_at, revoked_at), DELETE, UPDATE (created_at)",
        "audit_log": "SELECT (id, created_at), DELETE",
    },
}


def upgrade() -> None:
    create_api_keys()
    create_audit_log()
    for table, services in ISOLATED.items():
        for statement in isolate(table, services=services):
            op.execute(statement)
    for table, rows in DELETABLE.items():
        op.execute(deletes_only(table, SCHEDULER, rows))
    for role, rights in GRANTS.items():
        for table, privileges in rights.items():
            op.execute(f"GRANT {privileges} ON {table} TO {role}")


def create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_by_kind", sa.Text(), nullable=False),
        sa.Column("created_by_id", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replaces", sa.UUID(), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_id", name=op.f("uq_api_keys_key_id")),
    )
    op.create_index("ix_api_keys_newest", "api_keys", ["tenant_id", "created_at", "id"])
    op.create_index("ix_api_keys_end", "api_keys", [sa.text("least(revoked_at, expires_at)")])


def create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("actor_kind", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("resource_kind", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(), nullable=True),
        sa.Column("after", postgresql.JSONB(), nullable=True),
        sa.Column("client_address", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_newest", "audit_log", ["tenant_id", "created_at", "id"])
    for name in ("actor", "resource"):
        columns = ["tenant_id", f"{name}_id", "created_at", "id"]
        op.create_index(f"ix_audit_log_{name}", "audit_log", columns)
    op.create_index("ix_audit_log_age", "audit_log", ["created_at"])


def downgrade() -> None:
    op.drop_table("audit_log")
    op.drop_table("api_keys")
