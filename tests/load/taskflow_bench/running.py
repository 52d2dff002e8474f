"""What a run of any kind does around its measurements."""

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from taskflow_bench.errors import BenchBroke
from taskflow_local.system_packages import ensure_installed
from taskflow_testing.reaper import reaped
from taskflow_testing.run_folders import new_run_folder

INTERRUPTED = 130
"""The exit code of a run that was told to stop."""


def say(text: str) -> None:
    """Tell who waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def cancel_on_signals() -> None:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: everything is stopped first."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def carry_out(run: Callable[[], Coroutine[object, object, None]]) -> int:
    """Do a run, with what it needs installed; the exit code of its process."""
    try:
        ensure_installed()
        asyncio.run(run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except BenchBroke as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


@asynccontextmanager
async def run_folder(checkout: Path, name: str) -> AsyncIterator[Path]:
    """A folder for the block: no process that it starts there outlives it; kept if it fails."""
    folder = await asyncio.to_thread(new_run_folder, checkout / ".taskflow/bench/runs", name)
    async with reaped(folder):
        yield folder
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
