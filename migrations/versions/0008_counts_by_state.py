"""counts by state"""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

STATES = ("scheduled", "blocked", "retrying", "completed", "failed", "cancelled", "expired")
# They stay as they are, for processes of the version before, and for quotas.
OLDER = ("waiting_jobs", "kept_bytes", "running_jobs")

# What is there already. The lock of the ALTER keeps out whoever changes a state meanwhile.
COUNT = f"""
INSERT INTO tenant_usage (tenant_id, {", ".join(f"{state}_jobs" for state in STATES)})
SELECT tenant_id, {", ".join(f"count(*) FILTER (WHERE state = '{state}')" for state in STATES)}
FROM jobs GROUP BY tenant_id
"""


# Who changes a state waits for who waits here: a long reader of the table is to end first.
SOON = "SET LOCAL lock_timeout = '5s'"


def upgrade() -> None:
    changes = [f"ALTER {column} SET DEFAULT 0" for column in OLDER]
    changes += [f"ADD {state}_jobs bigint NOT NULL DEFAULT 0" for state in STATES]
    op.execute(SOON)
    op.execute(f"ALTER TABLE tenant_usage {', '.join(changes)}")
    op.execute(COUNT)


def downgrade() -> None:
    changes = [f"ALTER {column} DROP DEFAULT" for column in OLDER]
    changes += [f"DROP {state}_jobs" for state in STATES]
    op.execute(SOON)
    op.execute(f"ALTER TABLE tenant_usage {', '.join(changes)}")
