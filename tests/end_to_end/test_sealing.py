"""Jobs of real services whose payloads and results are sealed at rest."""

import asyncio
import base64
import re
import secrets
import subprocess
import sys
from pathlib import Path

import asyncpg

from taskflow_testing.job_client import JobClient
from taskflow_testing.object_store import objects_in
from taskflow_testing.services import NewServices, Servers, Services
from taskflow_testing.waiting import eventually

CANARY = "CanaryThatNobodyMayRead"
OLD, NEW = (
    f"{name}:{base64.b64encode(secrets.token_bytes(32)).decode()}" for name in ("old", "new")
)
TABLES = ("jobs", "job_events", "job_attempts", "idempotency_keys")


async def test_nothing_that_a_job_holds_is_stored_open(
    new_services: NewServices, real_servers: Servers, tmp_path: Path
) -> None:
    services = new_services(real_servers, payload_keys=OLD)
    await services.start_api()
    await services.start_consumer(handlers="sealed_jobs")
    await services.start_scheduler()
    async with services.client() as http:
        jobs = JobClient(http)
        await run_jobs(jobs)
        assert await sealed_with(real_servers) == {"old"}
        doctor = await taskflow(services, tmp_path, "doctor", "--jobs", "0")
        # It finds nothing broken, and what it can't look at is none of this.
        assert "FAIL" not in doctor.stdout, doctor.stdout

        rotated = await taskflow(services, tmp_path, "reseal", payload_keys=f"{NEW},{OLD}")
        assert rotated.returncode == 0, rotated.stderr
    assert await sealed_with(real_servers) == {"new"}


async def run_jobs(jobs: JobClient) -> None:
    """Every way in which a job can end, and what its client sees of it."""
    words = {"text": CANARY}
    remembers = await jobs.submit("sealed.remembers", words)
    large = await jobs.submit("sealed.isolated", words | {"times": 5000})
    fails = await jobs.submit("sealed.fails", words)
    assert (await jobs.completes(remembers))["result"] == [CANARY, words]
    assert (await jobs.completes(large))["result"] == CANARY * 5000
    failed = await jobs.reaches(fails, "failed")
    assert failed["error"]["message"] == f"can't do {CANARY}"
    attempts = (await jobs.http.get(remembers["links"]["attempts"])).json()["items"]
    assert attempts[0]["error"]["message"] == f"once more with {CANARY}"


async def test_a_consumer_without_the_key_leaves_the_job_to_one_that_has_it(
    new_services: NewServices, real_servers: Servers
) -> None:
    services = new_services(real_servers)
    await services.start_api(payload_keys=f"{NEW},{OLD}")
    await services.start_scheduler()
    behind = await services.start_consumer(handlers="sealed_jobs", payload_keys=OLD)
    async with services.client() as http:
        jobs = JobClient(http)
        job = await jobs.submit("sealed.isolated", {"text": CANARY})

        async def was_left() -> bool:
            return bool(behind.events("payload_key_missing"))

        await eventually(was_left, timeout=20)
        assert behind.events("payload_key_missing")[0]["key"] == "new"
        assert (await http.get(job["links"]["self"])).json()["state"] == "queued"
        await services.start_consumer(handlers="sealed_jobs", payload_keys=f"{OLD},{NEW}")
        done = await jobs.completes(job)
        assert (done["attempt"], done["result"]) == (1, CANARY)


async def sealed_with(servers: Servers) -> set[str]:
    """The ids of the keys in use; nothing is stored open."""
    rows = await database_text(servers.database_url)
    results = [
        content.decode(errors="replace")
        for key, content in objects_in(servers.s3).items()
        # A log holds what a job says, and the messages of its errors. Other tests have left theirs.
        if key.startswith("artifacts/") and key in rows
    ]
    assert results
    stored = "\n".join([rows, *results])
    is_open = CANARY in stored
    assert not is_open
    return set(re.findall(r"taskflow\.sealed:1:(\w+):", stored))


async def database_text(database_url: str) -> str:
    connection = await asyncpg.connect(database_url)
    try:
        rows = [
            row["row"]
            for name in TABLES
            for row in await connection.fetch(f"SELECT to_jsonb(t)::text AS row FROM {name} AS t")
        ]
    finally:
        await connection.close()
    return "\n".join(rows)


async def taskflow(
    services: Services, folder: Path, *words: str, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run TaskFlow's command line on the servers of these services."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "taskflow", *words],
        check=False,
        cwd=folder,
        env=services.environment(**settings),
        capture_output=True,
        text=True,
    )
