"""The whole OpenAPI document against the service as a process: it keeps its word."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from taskflow_testing.services import Servers, Services

CONFIG = Path(__file__).parents[1] / "schemathesis.toml"
EXAMPLES = os.environ.get("TASKFLOW_TEST_SCHEMATHESIS_EXAMPLES")
"""How many requests for each operation, drawn anew in each run; else few, and always the same."""

Register = Callable[..., Awaitable[None]]


@pytest.mark.slow
@pytest.mark.timeout(0 if EXAMPLES else 180)
async def test_every_check_holds_for_every_operation(
    own_servers: Servers, register: Register, tmp_path: Path
) -> None:
    await register("thumbnail")
    services = Services(own_servers, tmp_path, tmp_path)
    process = await services.start_api()
    try:
        code, output = await schemathesis(services, tmp_path)
    finally:
        await services.stop()
    assert code == 0, output
    assert process.events("request_failed") == []


async def schemathesis(services: Services, folder: Path) -> tuple[int | None, str]:
    """Run it to its end: its exit code and what it printed."""
    environment = services.environment()
    address = f"http://127.0.0.1:{environment['TASKFLOW_API_PORT']}/openapi.json"
    amount = ["--max-examples", EXAMPLES or "10"]
    drawing = [] if EXAMPLES else ["--generation-deterministic"]
    running = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("st"),
        *("--no-color", "--config-file", CONFIG, "run", address),
        # Every check, as by itself: named here, they would also run where the file leaves one out.
        "--continue-on-failure",
        *amount,
        *drawing,
        # Away from whatever it keeps of other runs.
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await running.communicate()
    return running.returncode, output.decode(errors="replace")
