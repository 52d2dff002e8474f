from typing import Any

import pytest

from taskflow.db.pool import Database
from taskflow.settings import SchedulerSettings
from taskflow_scheduler.loops import retention
from taskflow_scheduler.loops.retention import PruneRecords
from taskflow_testing.api_keys import make_key
from taskflow_testing.jobs import Jobs


@pytest.fixture
def settings() -> SchedulerSettings:
    needed: dict[str, Any] = {
        "database_url": "postgresql://localhost/db",
        "amqp_url": "amqp://localhost",
        "s3_endpoint": "http://localhost:9000",
        "s3_access_key": "a",
        "s3_secret_key": "s",
    }
    kept = {"retention_audit_days": 40, "retention_keys_days": 20}
    return SchedulerSettings(_env_file=None, **needed | kept)


async def test_what_was_kept_long_enough_goes_slice_by_slice(
    jobs: Jobs, database: Database, settings: SchedulerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = await make_key(jobs.connection), await make_key(jobs.connection)
    await jobs.connection.execute(
        "UPDATE api_keys SET revoked_at = now() - interval '1 day' * CASE id WHEN $1 THEN 21"
        " ELSE 19 END",
        gone.id,
    )
    await jobs.connection.execute(
        "UPDATE audit_log SET created_at = now() - interval '41 days' WHERE resource_id = $1",
        str(gone.id),
    )
    monkeypatch.setattr(retention, "SLICE", 1)
    loop = PruneRecords(database, settings)

    assert await loop.round()
    assert not await loop.round()

    assert [row["id"] for row in await jobs.connection.fetch("SELECT id FROM api_keys")] == [
        kept.id
    ]
    written = await jobs.connection.fetch("SELECT resource_id FROM audit_log")
    assert [row["resource_id"] for row in written] == [str(kept.id)]
