"""The job as SQLAlchemy's ORM maps it, and the statements that a worker needs."""

import uuid
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import DateTime, func, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.dml import ReturningUpdate, Update


class Base(DeclarativeBase):
    """What all tables have in common."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True)}


class Job(Base):
    """A row of `jobs`."""

    __tablename__ = "jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    type: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(default="queued")
    attempt: Mapped[int] = mapped_column(default=0)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


def claim(job_id: uuid.UUID) -> ReturningUpdate[tuple[int, dict[str, Any]]]:
    """Take a job that has not ended: a message that comes again does so after a lost worker."""
    return (
        update(Job)
        .where(Job.id == job_id, Job.finished_at.is_(None))
        .values(state="running", attempt=Job.attempt + 1, started_at=func.clock_timestamp())
        .returning(Job.attempt, Job.payload)
    )


def finish(job_id: uuid.UUID, attempt: int, result: dict[str, Any]) -> Update:
    """Complete it, unless another attempt has begun since."""
    return (
        update(Job)
        .where(Job.id == job_id, Job.attempt == attempt, Job.state == "running")
        .values(state="completed", result=result, finished_at=func.clock_timestamp())
    )
