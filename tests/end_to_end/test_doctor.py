"""`taskflow doctor` beside the real services, as an operator runs it."""

import asyncio
import json
import sys
from typing import Any

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import NewServices, Servers
from taskflow_testing.waiting import eventually


async def doctor(environment: dict[str, str], folder: str) -> tuple[int, dict[str, Any]]:
    """Its exit code, and its checks by subject."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "taskflow",
        "doctor",
        "--json",
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert error == b""
    assert process.returncode is not None
    return process.returncode, {check["subject"]: check for check in json.loads(out)["checks"]}


async def test_a_system_at_work_and_without_a_worker(
    real_servers: Servers, new_services: NewServices, tmp_path: Any
) -> None:
    services = new_services(real_servers)
    await services.start_api()
    consumer = await services.start_consumer()
    await services.start_scheduler()
    await services.start_scheduler()
    environment = services.environment(worker_lost_after_seconds=5)
    async with services.client() as client:
        jobs = JobClient(client)
        await jobs.completes(await jobs.submit("echo", {"text": "hello"}))
        failed = await jobs.submit("flaky", {"permanent": True})
        await jobs.reaches(failed, "failed")

        async def well() -> dict[str, Any] | None:
            code, checks = await doctor(environment, str(tmp_path))
            return checks if code == 0 else None

        # Two schedulers need a second to elect the one that leads.
        checks = await eventually(well, timeout=30)
        # Other tests leave messages among the dead that are no pointers.
        assert {name for name, check in checks.items() if check["level"] != "ok"} <= {"dead"}
        assert checks["schedulers"]["text"] == "2 running, one leads"

        consumer.kill()
        await consumer.wait(10)
        await jobs.submit("echo", {"text": "who takes this?"})

        async def broken() -> dict[str, Any] | None:
            code, checks = await doctor(environment, str(tmp_path))
            return checks if code == 1 else None

        checks = await eventually(broken, timeout=60, pause=1)
        assert checks["workers"]["level"] == checks["queues"]["level"] == "fail"
        assert checks["queues"]["details"] == ["default: 1 jobs"]
