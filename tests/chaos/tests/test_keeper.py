import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskflow_chaos.keeper import Keeper
from taskflow_local.processes import is_alive
from taskflow_testing import processes
from taskflow_testing.waiting import eventually

# Says that it is there, has a child, and ends well when it is asked to.
WITH_CHILD = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
# Waited for, not handled: a handler may be told just before a pause, and run after it.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("here", flush=True)
signal.sigwait({signal.SIGTERM})
child.kill()
child.wait()
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
while True:
    signal.pause()
"""


def keeper_of(folder: Path, program: str) -> Keeper:
    return Keeper("test", [sys.executable, "-c", program], os.environ, folder / "log" / "test.log")


async def until_here(keeper: Keeper, times: int = 1) -> None:
    async def says_so() -> bool:
        return keeper.log_path.read_text().count("here") >= times

    await eventually(says_so)


async def until_frozen(pids: list[int], expected: list[bool]) -> None:
    async def are_so() -> bool:
        return [state_of(pid) == "T" for pid in pids] == expected

    await eventually(are_so)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    keeper = keeper_of(tmp_path, WITH_CHILD)
    await keeper.start()
    await until_here(keeper)
    yield keeper
    await keeper.destroy()


async def test_what_was_killed_is_started_again(keeper: Keeper) -> None:
    first, child = processes.tree(keeper.pid)
    assert keeper.kill()
    life = await keeper.wait_life(1)
    assert life.pid not in {first, child}
    assert keeper.lives[0].exit_code == -signal.SIGKILL
    assert keeper.lives[0].began < (keeper.lives[0].ended or 0) <= life.began
    # Its child is its own affair: a kill -9 hits one process.
    assert is_alive(child)
    os.kill(child, signal.SIGKILL)
    await until_here(keeper, times=2)


async def test_a_restart_is_a_polite_end_and_a_new_life(keeper: Keeper) -> None:
    assert await keeper.restart() == 0
    assert (await keeper.wait_life(1)).pid != keeper.lives[0].pid
    await until_here(keeper, times=2)


async def test_what_was_stopped_stays_so(keeper: Keeper) -> None:
    pids = processes.tree(keeper.pid)
    assert await keeper.stop() == 0
    assert not keeper.is_running
    assert not keeper.kill()
    await asyncio.sleep(0.3)
    assert len(keeper.lives) == 1
    assert not any(map(is_alive, pids))


async def test_a_frozen_one_can_be_thawed_and_stopped(keeper: Keeper) -> None:
    pids = processes.tree(keeper.pid)
    assert keeper.freeze_all()
    await until_frozen(pids, [True, True])
    assert keeper.thaw()
    await until_frozen(pids, [False, False])
    assert keeper.freeze()
    await until_frozen(pids, [True, False])
    assert await keeper.stop() == 0


async def test_who_does_not_end_is_killed_and_told(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path, DEAF)
    await keeper.start()
    await until_here(keeper)
    assert await keeper.stop(seconds=0.2) is None
    assert not is_alive(keeper.pid)


async def test_one_that_ends_at_once_is_started_ever_more_slowly(tmp_path: Path) -> None:
    # No interpreter: its start may take longer than an end counts as quick.
    keeper = Keeper("test", ["sh", "-c", "exit 3"], os.environ, tmp_path / "log" / "test.log")
    await keeper.start()
    await keeper.wait_life(2)
    await keeper.destroy()
    first, second, third = keeper.lives[:3]
    assert (first.exit_code, second.exit_code) == (3, 3)
    assert third.began - (second.ended or 0) >= 0.4
    assert second.began - (first.ended or 0) >= 0.2
