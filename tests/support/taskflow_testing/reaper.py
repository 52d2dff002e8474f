"""Ends what a suite leaves running that was itself killed: `python -m taskflow_testing.reaper DIR`.

It waits for the end of its standard input, the other end of which the suite alone holds.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from taskflow_local.leftovers import end_leftovers
from taskflow_testing.run_folders import unmount_below


@asynccontextmanager
async def reaped(folder: Path) -> AsyncIterator[None]:
    """Within the block, whatever becomes of us: when we end, the processes of `folder` do."""
    reaper = _start(folder)
    try:
        yield
    finally:
        assert reaper.stdin is not None
        reaper.stdin.close()
        await asyncio.to_thread(reaper.wait)


def _start(folder: Path) -> "subprocess.Popen[bytes]":
    """Not one of asyncio's, which would die with the loop."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def main(folder: Path) -> None:
    """Wait, and end them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_leftovers(folder)
    unmount_below(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
