import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_local.processes import is_alive
from taskflow_local.supervisor import MARKER
from taskflow_testing.reaper import reaped
from taskflow_testing.waiting import eventually

# A suite that has started a process of its own when it is killed.
SUITE = """
import asyncio, os, subprocess, sys
from pathlib import Path
from taskflow_local.supervisor import MARKER
from taskflow_testing.reaper import reaped
folder = Path(sys.argv[1])
async def main():
    async with reaped(folder):
        child = subprocess.Popen(
            ["sleep", "600"], env={**os.environ, MARKER: str(folder)}, start_new_session=True
        )
        (folder / "pid").write_text(str(child.pid))
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def suite(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", SUITE, str(tmp_path)]) as suite:
        yield suite
        suite.kill()


async def test_what_a_killed_suite_has_started_ends(
    suite: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"

    async def has_begun() -> bool:
        return pid_file.exists() and bool(pid_file.read_text())

    await eventually(has_begun)
    pid = int(pid_file.read_text())
    assert is_alive(pid)
    assert f"{MARKER}={tmp_path}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    suite.send_signal(signal.SIGKILL)
    suite.wait()

    async def has_ended() -> bool:
        return not is_alive(pid)

    try:
        await eventually(has_ended, timeout=30)
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


async def test_the_loop_goes_on_while_what_is_left_ends(tmp_path: Path) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    async with reaped(tmp_path):
        environment = {**os.environ, MARKER: str(tmp_path)}
        child = await asyncio.create_subprocess_exec("sleep", "600", env=environment)
        turning = asyncio.create_task(turn())
    turning.cancel()
    assert turns > 0
    assert await child.wait() == -signal.SIGTERM
