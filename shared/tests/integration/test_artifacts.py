"""Artifacts: where they lie, which names they may have, who may read them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from taskflow.artifacts import ArtifactStore
from taskflow.errors import InvalidContent, ObjectMissing
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.lanes import Lane
from taskflow.jobs.outcomes import Attempt
from taskflow.jobs.states import Priority
from taskflow.object_store import ObjectStore
from taskflow_testing.clients import open_store
from taskflow_testing.jobs import TENANT
from taskflow_testing.object_store import TestBucket

OTHER_TENANT = UUID("00000000-0000-7000-8000-000000000002")


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


@pytest.fixture
def artifacts(store: ObjectStore) -> ArtifactStore:
    return ArtifactStore(store)


@pytest.fixture
def job() -> ClaimedJob:
    return ClaimedJob(
        attempt=Attempt(uuid7(), 1, uuid7()),
        tenant_id=TENANT,
        type="echo",
        lane=Lane("default", Priority.MEDIUM),
        payload_json="{}",
        checkpoint_json=None,
        timeout_seconds=None,
        max_attempts=4,
        attempt_limit=4,
        created_at=datetime(2026, 11, 22, 23, 30, tzinfo=UTC),
        started_at=datetime(2026, 11, 22, 23, 30, tzinfo=UTC),
    )


async def put(artifacts: ArtifactStore, job: ClaimedJob, name: str, data: bytes = b"x") -> str:
    return await artifacts.put(job, name, data, "text/plain")


async def test_an_artifact_lies_under_its_job_and_is_read_back(
    artifacts: ArtifactStore, job: ClaimedJob
) -> None:
    key = await put(artifacts, job, "thumbnails/a.png", b"\x89PNG")
    assert key == f"artifacts/{TENANT}/2026-11-22/{job.attempt.job_id}/1/thumbnails/a.png"
    assert await artifacts.get(job, key) == b"\x89PNG"
    assert await artifacts.read(TENANT, key) == b"\x89PNG"


async def test_the_day_is_that_of_utc(artifacts: ArtifactStore, job: ClaimedJob) -> None:
    east = job.created_at.astimezone(timezone(timedelta(hours=5)))
    key = await put(artifacts, replace(job, created_at=east), "a")
    assert "/2026-11-22/" in key


async def test_the_same_name_again_replaces_the_artifact(
    artifacts: ArtifactStore, job: ClaimedJob
) -> None:
    await put(artifacts, job, "a", b"first")
    assert await artifacts.get(job, await put(artifacts, job, "a", b"second")) == b"second"


async def test_a_late_attempt_overwrites_nothing_of_the_next_one(
    artifacts: ArtifactStore, job: ClaimedJob
) -> None:
    next_one = replace(job, attempt=replace(job.attempt, number=2, worker_id=uuid7()))
    key = await put(artifacts, next_one, "a", b"second")
    await put(artifacts, job, "a", b"late")
    assert await artifacts.get(next_one, key) == b"second"


async def test_files_go_there_and_come_back(
    artifacts: ArtifactStore, job: ClaimedJob, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"data" * 1000)
    key = await artifacts.put_file(job, "data.bin", source, "application/octet-stream")
    await artifacts.get_file(job, key, target)
    assert target.read_bytes() == b"data" * 1000


@pytest.mark.parametrize(
    "name",
    ["a", "a b/ü/日本.txt", "😀", "..a", ".hidden", "a" * 255, "a?b#c%20&+", "result-1.json"],
)
async def test_names_of_all_kinds_are_taken(
    artifacts: ArtifactStore, job: ClaimedJob, name: str
) -> None:
    assert await artifacts.get(job, await put(artifacts, job, name, name.encode())) == name.encode()


async def test_a_name_of_the_greatest_length_is_taken(
    artifacts: ArtifactStore, job: ClaimedJob
) -> None:
    name = "/".join(["a" * 127] * 4) + "b"
    assert len(name) == 512
    assert await artifacts.get(job, await put(artifacts, job, name)) == b"x"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "../b",
        "a\\b",
        "a\nb",
        "a\0",
        "\x7f",
        "\ud800",
        "a" * 256,
        "/".join(["a" * 127] * 4) + "bc",
        "é" * 128,
        "/".join(["日" * 80] * 4),
    ],
)
async def test_names_that_lead_astray_are_refused(
    artifacts: ArtifactStore, job: ClaimedJob, name: str
) -> None:
    with pytest.raises(InvalidContent) as caught:
        await put(artifacts, job, name)
    assert caught.value.problems[0][0] == "/name"


async def test_what_is_not_the_tenants_own_is_not_there(
    artifacts: ArtifactStore, store: ObjectStore, job: ClaimedJob
) -> None:
    key = await put(artifacts, job, "secret")
    stranger = replace(job, tenant_id=OTHER_TENANT)
    await store.put(f"logs/{OTHER_TENANT}/x", b"a log")
    prefix = f"artifacts/{OTHER_TENANT}/"
    for wanted in (
        key,
        f"{prefix}../{TENANT}{key.removeprefix(f'artifacts/{TENANT}')}",
        f"{prefix}2026-11-22/{job.attempt.job_id}/../../../{TENANT}/x",
        f"logs/{OTHER_TENANT}/x",
        f"x/{prefix}2026-11-22/{job.attempt.job_id}/a",
        prefix,
        "",
        "\ud800",
    ):
        with pytest.raises(ObjectMissing):
            await artifacts.get(stranger, wanted)
        with pytest.raises(ObjectMissing):
            await artifacts.get_file(stranger, wanted, Path("/nowhere"))


async def test_a_missing_artifact_is_missing(artifacts: ArtifactStore, job: ClaimedJob) -> None:
    key = await put(artifacts, job, "a")
    with pytest.raises(ObjectMissing):
        await artifacts.get(job, f"{key}-not")


async def test_deleting_a_jobs_artifacts_leaves_those_of_others(
    artifacts: ArtifactStore, job: ClaimedJob
) -> None:
    other = replace(job, attempt=replace(job.attempt, job_id=uuid7()))
    keys = [await put(artifacts, job, name) for name in ("a", "b/c", "result-1.json")]
    kept = await put(artifacts, other, "a")
    for _ in range(2):
        await artifacts.delete_job(TENANT, job.attempt.job_id, job.created_at)
    for key in keys:
        with pytest.raises(ObjectMissing):
            await artifacts.get(job, key)
    assert await artifacts.get(other, kept) == b"x"
