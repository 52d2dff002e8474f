"""What kills an isolated job, with all that it has started, when its consumer is gone.

The kernel does it: a handler that holds the interpreter's lock leaves no thread of its process a
turn, so it would go on without a lease, beside the next attempt, for as long as it likes.
"""

import fcntl
import os
import select
import signal
import socket
import sys
from contextlib import suppress


def hang_on(lifeline: socket.socket) -> None:
    """Have this process's group killed as soon as the other end of `lifeline` closes.

    Nothing may ever be sent over it. Where the kernel can't do it, the thread that reads the
    consumer's words does (`child.Pipe`), when it gets its turn.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    closed_before, _, _ = select.select([lifeline], [], [], 0)
    if closed_before:
        os.killpg(0, signal.SIGKILL)
