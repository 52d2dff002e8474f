"""users"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from alembic import op

from taskflow.db.roles import DatabaseRole
from taskflow.db.row_security import deletes_only, expose, isolate

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TENANT, INTAKE = DatabaseRole.TENANT, DatabaseRole.INTAKE
API, SCHEDULER = DatabaseRole.API, DatabaseRole.SCHEDULER

# The scheduler deletes sessions that have expired.
ISOLATED = {
    "refresh_tokens": (API, SCHEDULER),
    "user_sessions": (API, SCHEDULER),
    "users": (API,),
}

# A tenant reads no hash of a password: it is compared in nobody's name, before it is known whose.
GRANTS = {
    TENANT: {
        "tenants": "INSERT, SELECT (id, is_registered)",
        "users": """INSERT, SELECT (id, tenant_id, email, created_at, disabled_at),
            UPDATE (password_hash)""",
        "user_sessions": "SELECT, INSERT, DELETE, UPDATE (ended_at, end_reason)",
        "refresh_tokens": "SELECT, INSERT, UPDATE (used_at)",
    },
    # How much a tenant may keep depends on it.
    INTAKE: {
        "tenants": "SELECT (id, is_registered)",
    },
    API: {
        "tenants": "SELECT (id, name, is_registered)",
        "users": "SELECT (id, tenant_id, email, password_hash, disabled_at)",
        "user_sessions": "SELECT (id, tenant_id, user_id, address, expires_at, ended_at)",
        "refresh_tokens": "SELECT (token_hash, tenant_id, session_id)",
    },
    # FOR UPDATE asks for UPDATE of some column.
    SCHEDULER: {
        "user_sessions": "SELECT (id, expires_at), DELETE, UPDATE (created_at)",
        "refresh_tokens": "SELECT (token_hash, session_id), DELETE",
    },
}


def upgrade() -> None:
    op.add_column(
        "tenants",
        sa.Column("is_registered", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        created_at(),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "user_sessions",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        created_at(),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_user_sessions_user", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_sessions")),
    )
    op.create_index("ix_user_sessions_user", "user_sessions", ["user_id", "created_at"])
    op.create_index("ix_user_sessions_expiry", "user_sessions", ["expires_at"])
    op.create_table(
        "refresh_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("session_id", sa.UUID(), nullable=False),
        created_at(),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["user_sessions.id"],
            name="fk_refresh_tokens_session",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_refresh_tokens")),
    )
    op.create_index("ix_refresh_tokens_session", "refresh_tokens", ["session_id"])
    for table, services in ISOLATED.items():
        for statement in isolate(table, services=services):
            op.execute(statement)
    op.execute(deletes_only("user_sessions", SCHEDULER, "expires_at < now()"))
    # Whose tenants there are, for tokens of others that name one.
    op.execute(f"CREATE POLICY tokens_all ON tenants TO {API} USING (true) WITH CHECK (true)")
    for role, rights in GRANTS.items():
        for table, privileges in rights.items():
            op.execute(f"GRANT {privileges} ON {table} TO {role}")


def created_at() -> sa.Column[datetime]:
    return sa.Column(
        "created_at",
        sa.DateTime(timezone=True),
        server_default=sa.text("now()"),
        nullable=False,
    )


def downgrade() -> None:
    op.execute(f"REVOKE INSERT, SELECT (id, is_registered) ON tenants FROM {TENANT}")
    op.execute(f"REVOKE SELECT (id, is_registered) ON tenants FROM {INTAKE}")
    op.execute(f"REVOKE SELECT (id, name, is_registered) ON tenants FROM {API}")
    op.execute("DROP POLICY tokens_all ON tenants")
    for table in ISOLATED:
        for statement in expose(table):
            op.execute(statement)
        op.drop_table(table)
    op.drop_column("tenants", "is_registered")
