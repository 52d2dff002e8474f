"""What a run of any kind does around its measurements."""

import asyncio
import signal
import sys

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
