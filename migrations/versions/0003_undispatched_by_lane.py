"""undispatched by lane"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_index(
        "ix_jobs_undispatched_lane",
        "jobs",
        ["queue", "priority", "run_at"],
        unique=False,
        postgresql_where=sa.text(
            "coalesce(pointer_at, 'infinity') = 'infinity'"
            " AND state IN ('queued', 'retrying', 'scheduled')"
        ),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_undispatched_lane", table_name="jobs")
