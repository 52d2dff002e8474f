"""`taskflow reseal`: rotation of keys on a database that is in use."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from taskflow.jobs import commands, patching
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.finishing import finish
from taskflow.jobs.outcomes import JobError, Outcome, OutcomeKind, completed, completed_in_object
from taskflow.jobs.resealing import look
from taskflow.jobs.resealing import reseal as reseal_jobs
from taskflow.jobs.schemas import JobPatch
from taskflow.jobs.usage import mend, read_usage
from taskflow.object_store import ObjectStore
from taskflow.sealing import command as reseal
from taskflow.sealing.ring import Part, Place, SealingKeyRing
from taskflow.settings import ResealSettings
from taskflow_testing.clients import open_store
from taskflow_testing.jobs import TENANT, Connect, Jobs, new_job
from taskflow_testing.object_store import TestBucket

OLD = "old:" + base64.b64encode(b"o" * 32).decode()
NEW = "new:" + base64.b64encode(b"n" * 32).decode()
BOTH = f"{NEW},{OLD}"
CANARY = "a canary"

Settings = Callable[..., ResealSettings]


@pytest.fixture
def settings(clean_database: str, s3: TestBucket) -> Settings:
    def make(keys: str, **changes: Any) -> ResealSettings:
        values = {
            "database_url": clean_database,
            "s3_endpoint": s3.endpoint,
            "s3_access_key": s3.access_key,
            "s3_secret_key": s3.secret_key,
            "s3_bucket": s3.bucket,
            "payload_keys": keys,
        }
        return ResealSettings(_env_file=None, **values | changes)

    return make


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


async def run(settings: ResealSettings, *, dry_run: bool = False) -> int:
    return await asyncio.to_thread(reseal.run, settings, dry_run=dry_run)


async def sealed_job(jobs: Jobs, keys: str = OLD) -> ClaimedJob:
    """A running job with everything that can be sealed, but its end."""
    ring, job_id = SealingKeyRing.of(keys), uuid7()
    payload = None
    if ring.seals_with:
        place = Place(TENANT, job_id, Part.PAYLOAD)
        payload = ring.seal_text(place, json.dumps({"text": CANARY}))
    await jobs.submit(id=job_id, payload={"text": CANARY}, sealed_payload=payload)
    (claimed,) = await jobs.claim(job_id, key_ids=ring.key_ids)
    assert isinstance(claimed, ClaimedJob)
    checkpoint = ring.seal_json(Place(TENANT, job_id, Part.CHECKPOINT), f'"{CANARY}"')
    await jobs.connection.execute(
        "UPDATE jobs SET checkpoint = $2 WHERE id = $1", job_id, checkpoint
    )
    return claimed


async def fail(jobs: Jobs, claimed: ClaimedJob, keys: str = OLD) -> None:
    place = Place(TENANT, claimed.attempt.job_id, Part.ERROR)
    error = JobError("Boom", SealingKeyRing.of(keys).seal_text(place, CANARY), retryable=False)
    outcome = Outcome(OutcomeKind.FAILED, error=error)
    await finish(jobs.connection, [(claimed.attempt, outcome)])


async def complete(jobs: Jobs, claimed: ClaimedJob, keys: str = OLD) -> None:
    place = Place(TENANT, claimed.attempt.job_id, Part.RESULT)
    result = SealingKeyRing.of(keys).seal_json(place, f'"{CANARY}"')
    await finish(jobs.connection, [(claimed.attempt, completed(result))])


async def put_result(jobs: Jobs, store: ObjectStore, keys: str = OLD) -> str:
    claimed = await sealed_job(jobs, keys)
    key = f"artifacts/{TENANT}/2026-01-01/{claimed.attempt.job_id}/1/result-1.json"
    place = Place(TENANT, claimed.attempt.job_id, Part.RESULT)
    sealed = SealingKeyRing.of(keys).seal_object(place, f'"{CANARY}"'.encode())
    await store.put(key, sealed)
    await finish(jobs.connection, [(claimed.attempt, completed_in_object(key, len(sealed)))])
    return key


async def everything(jobs: Jobs) -> str:
    rows = [
        await jobs.connection.fetch(f"SELECT to_jsonb(t)::text AS row FROM {name} AS t")
        for name in ("jobs", "job_events", "job_attempts")
    ]
    return "\n".join(row["row"] for table in rows for row in table)


@pytest.mark.parametrize("before", ["", OLD])
async def test_everything_is_sealed_with_the_first_key(
    jobs: Jobs,
    settings: Settings,
    store: ObjectStore,
    capsys: pytest.CaptureFixture[str],
    before: str,
) -> None:
    running, done, failed = [await sealed_job(jobs, before) for _ in range(3)]
    await complete(jobs, done, before)
    await fail(jobs, failed, before)
    key = await put_result(jobs, store, before)
    versions = await jobs.connection.fetch("SELECT id, updated_at FROM jobs ORDER BY id")

    assert await run(settings(BOTH), dry_run=True) == 1
    assert "4 jobs, 1 large" in capsys.readouterr().out
    assert "taskflow.sealed:1:new" not in await everything(jobs)
    assert await run(settings(BOTH)) == 0
    assert "sealed with new: 4 jobs, 1 large" in capsys.readouterr().out

    stored = await everything(jobs)
    assert set(re.findall(r"taskflow\.sealed:1:(\w+):", stored)) == {"new"}
    assert CANARY not in stored
    ring = SealingKeyRing.of(NEW)
    for claimed in (running, done, failed):
        job_id = claimed.attempt.job_id
        row = await jobs.row(job_id)
        payload = ring.open_json(Place(TENANT, job_id, Part.PAYLOAD), row["payload"])
        assert json.loads(payload) == {"text": CANARY}
        checkpoint = ring.open_json(Place(TENANT, job_id, Part.CHECKPOINT), row["checkpoint"])
        assert json.loads(checkpoint) == CANARY
    row = await jobs.row(done.attempt.job_id)
    place = Place(TENANT, done.attempt.job_id, Part.RESULT)
    assert json.loads(ring.open_json(place, row["result"])) == CANARY
    errors = await jobs.connection.fetch(
        "SELECT error FROM jobs WHERE id = $1 UNION ALL"
        " SELECT error FROM job_attempts WHERE job_id = $1 UNION ALL"
        " SELECT detail -> 'error' FROM job_events WHERE job_id = $1 AND event = 'fail'",
        failed.attempt.job_id,
    )
    # The doctor compares them (I5).
    assert len(errors) == 3
    assert len({row["error"] for row in errors}) == 1
    place = Place(TENANT, failed.attempt.job_id, Part.ERROR)
    assert ring.open_text(place, json.loads(errors[0]["error"])["message"]) == CANARY
    place = Place(TENANT, UUID(key.split("/")[3]), Part.RESULT)
    assert ring.open_object(place, await store.get(key)) == f'"{CANARY}"'.encode()
    # Clients see no other version.
    assert versions == await jobs.connection.fetch("SELECT id, updated_at FROM jobs ORDER BY id")

    assert await run(settings(BOTH), dry_run=True) == 0
    assert "0 jobs, 0 large" in capsys.readouterr().out
    # The old key can go, and so can all of them.
    assert await run(settings(f"none,{NEW}")) == 0
    assert "taskflow.sealed" not in await everything(jobs)
    assert await store.get(key) == f'"{CANARY}"'.encode()


@pytest.mark.parametrize(("before", "after"), [("", NEW), (OLD, BOTH), (OLD, f"none,{OLD}")])
async def test_quotas_count_the_same_before_and_after(
    jobs: Jobs, settings: Settings, before: str, after: str
) -> None:
    ring, job = SealingKeyRing.of(before), new_job(payload={"text": CANARY})
    await jobs.submit(
        id=job.id,
        payload=job.payload,
        sealed_payload=ring.sealed_payload(TENANT, job.id, job.payload),
    )
    await complete(jobs, await sealed_job(jobs, before), before)
    usage = await read_usage(jobs.connection, [TENANT])
    assert await run(settings(after)) == 0
    # What is counted when a job goes is what was counted when it came.
    assert await mend(jobs.connection) == {}
    assert await read_usage(jobs.connection, [TENANT]) == usage


async def test_a_job_that_runs_while_keys_rotate_ends_as_it_should(
    jobs: Jobs, settings: Settings
) -> None:
    claimed = await sealed_job(jobs)
    assert await run(settings(BOTH)) == 0
    # Its worker still seals with the old key.
    await complete(jobs, claimed)
    row = await jobs.row(claimed.attempt.job_id)
    assert row["state"] == "completed"
    assert await run(settings(BOTH), dry_run=True) == 1
    assert await run(settings(BOTH)) == 0
    assert await run(settings(NEW), dry_run=True) == 0


async def test_what_others_change_meanwhile_is_not_lost(
    jobs: Jobs, connect: Connect, settings: Settings
) -> None:
    claimed = await sealed_job(jobs)
    job_id, ring = claimed.attempt.job_id, SealingKeyRing.of(BOTH)
    await jobs.connection.execute("UPDATE jobs SET state = 'queued', worker_id = NULL")
    window = await look(jobs.connection, ring, limit=10)
    other = await connect()
    async with other.transaction():
        change = JobPatch(payload={"text": "changed"})
        await patching.patch(other, TENANT, job_id, change, SealingKeyRing.of(OLD), if_version=None)
        resealing = asyncio.create_task(reseal_jobs(jobs.connection, ring, window.to_reseal))
        await asyncio.sleep(0)
    assert (await resealing).jobs == 1
    row = await jobs.row(job_id)
    payload = SealingKeyRing.of(NEW).open_json(Place(TENANT, job_id, Part.PAYLOAD), row["payload"])
    assert json.loads(payload) == {"text": "changed"}


async def test_a_result_that_is_erased_meanwhile_does_not_come_back(
    jobs: Jobs, settings: Settings, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await put_result(jobs, store)
    job_id, put = UUID(key.split("/")[3]), ObjectStore.put

    async def delete_and_put(self: ObjectStore, *arguments: Any) -> None:
        await commands.delete(jobs.connection, TENANT, job_id)
        await store.delete([key])
        await put(self, *arguments)

    monkeypatch.setattr(ObjectStore, "put", delete_and_put)
    assert await asyncio.wait_for(reseal._run(settings(BOTH), dry_run=False), 20)
    assert not await store.exists(key)


async def test_what_can_not_be_opened_is_named_and_stays(
    jobs: Jobs, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = (await sealed_job(jobs)).attempt.job_id
    moved = (await sealed_job(jobs, NEW)).attempt.job_id
    await jobs.connection.execute(
        "UPDATE jobs SET payload = (SELECT payload FROM jobs WHERE id = $1) WHERE id = $2",
        locked,
        moved,
    )
    before = await everything(jobs)
    assert await run(settings(NEW)) == 1
    said = capsys.readouterr().err
    assert re.search(f"{locked}: .*'old'", said)
    assert await everything(jobs) == before
    assert await run(settings(BOTH)) == 1
    assert re.search(f"{moved}: .* not what was sealed", capsys.readouterr().err)


async def test_errors_in_fixed_words_are_nothing_to_do(jobs: Jobs, settings: Settings) -> None:
    cancelled = (await sealed_job(jobs, NEW)).attempt.job_id
    await jobs.connection.execute("UPDATE jobs SET state = 'queued', worker_id = NULL")
    await commands.cancel(jobs.connection, TENANT, cancelled)
    assert await run(settings(BOTH), dry_run=True) == 0


async def test_many_jobs_go_window_by_window(
    jobs: Jobs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reseal, "WINDOW", 5)
    monkeypatch.setattr(reseal, "BATCH", 2)
    for _ in range(13):
        await jobs.submit()
    assert await run(settings(NEW)) == 0
    assert await run(settings(NEW), dry_run=True) == 0


async def test_a_service_may_not_do_it(
    connection: asyncpg.Connection, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"tester_{uuid4().hex[:12]}"
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    await connection.execute(f"GRANT taskflow_consumer TO {name}")
    try:
        url = settings(NEW).database_url.get_secret_value()
        login = SecretStr(re.sub(r"//[^@]*@", f"//{name}:secret@", url))
        assert await run(settings(NEW, database_url=login)) == 1
    finally:
        await connection.execute(f"DROP ROLE {name}")
    assert "owner" in capsys.readouterr().err


async def test_without_keys_there_is_nothing_to_do(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(settings("")) == 1
    assert "TASKFLOW_PAYLOAD_KEYS" in capsys.readouterr().err
