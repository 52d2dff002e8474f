"""What a consumer logged while S3 was away, and then was killed or told to end."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import Services
from taskflow_testing.waiting import eventually

from .conftest import Proxies


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_its_successor_stores_it(
    services: Services,
    proxies: Proxies,
    through_proxies: dict[str, Any],
    tmp_path: Path,
    end: signal.Signals,
) -> None:
    await services.start_scheduler()
    spool = tmp_path / "spool"
    settings = {
        **through_proxies,
        "handlers": "fault_jobs",
        "log_spool_dir": spool,
        "log_flush_seconds": 0.2,
        "shutdown_grace_seconds": 0,
    }
    consumer = await services.start_consumer(**settings)
    async with services.client() as http:
        jobs = JobClient(http)
        proxies.s3.go_down()
        job = await jobs.submit(
            "fault.lines", {"path": str(tmp_path / "marks"), "seconds": 60}, max_attempts=2
        )

        async def much_is_spooled() -> bool:
            return sum(path.read_bytes().count(b'"line"') for path in spool.rglob("*.lines")) >= 30

        await eventually(much_is_spooled, timeout=30)
        consumer.signal(end)
        await consumer.wait(timeout=20)
        await jobs.http.post(f"/api/v1/jobs/{job['id']}/cancel")
        proxies.s3.come_back()
        successor = await services.start_consumer(**settings)

        async def is_clear() -> bool:
            return not list(spool.rglob("*.lines"))

        await eventually(is_clear, timeout=30)
        (adopted,) = successor.events("log_spool_adopted")
        assert adopted["files"] >= 2
        answer = await jobs.http.get(
            job["links"]["logs"], params={"attempt": 1}, headers={"Accept": "application/x-ndjson"}
        )
    lines = [json.loads(line) for line in answer.text.splitlines()]
    numbers = [line["number"] for line in lines if line["message"] == "line"]
    assert len(numbers) >= 30
    assert numbers == list(range(len(numbers)))
