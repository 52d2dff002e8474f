"""Loopback ports: is one free, who moves it, and which free ones to take."""

import random
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from taskflow_local.errors import StackError

LOOPBACK = "127.0.0.1"

_LARGEST = 65_535

# Below the range that the kernel hands to outgoing connections (32768 and up on Linux), so that
# no client takes a port between our choosing it and a server's binding it.
_CANDIDATES = range(20_000, 32_000)


@dataclass(frozen=True)
class Port:
    """A TCP port on loopback, what listens there, and the setting that moves it."""

    number: int
    purpose: str
    variable: str


def is_free(number: int) -> bool:
    """Whether a server could listen on this port now."""
    try:
        _bind(number).close()
    except OSError:
        return False
    return True


def accepts_connections(number: int) -> bool:
    """Whether something listens on this port now."""
    try:
        socket.create_connection((LOOPBACK, number), timeout=1).close()
    except OSError:
        return False
    return True


def require_free(ports: Iterable[Port]) -> None:
    """Pass when a server could listen on each of these.

    Raises:
        StackError: a line for every port that is taken, with the variable that moves it.
    """
    taken = [port for port in ports if not is_free(port.number)]
    if not taken:
        return
    moves = [f"{port.variable}={_free_beside(port.number)}" for port in taken]
    lines = [
        f"port {port.number} ({port.purpose}) is taken by another program: stop that, or move ours"
        f" with {move} make up"
        for port, move in zip(taken, moves, strict=True)
    ]
    if len(taken) > 1:
        lines.append(f"or move them together: {' '.join(moves)} make up")
    raise StackError("\n".join(lines))


def choose_free(count: int) -> list[int]:
    """Different free ports, at random so that two stacks starting together seldom meet."""
    with ExitStack() as held:
        chosen: list[int] = []
        for number in random.sample(_CANDIDATES, len(_CANDIDATES)):
            try:
                held.enter_context(_bind(number))
            except OSError:
                continue
            chosen.append(number)
            if len(chosen) == count:
                return chosen
    raise StackError(f"no {count} free ports from {_CANDIDATES.start} to {_CANDIDATES.stop - 1}")


def _bind(number: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without it a port whose last connection lingers in TIME_WAIT would look taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, number))
    except OSError:
        listener.close()
        raise
    return listener


def _free_beside(number: int) -> int:
    """A free port that is easy to remember, beside one that is taken."""
    candidates = range(number + 10, min(number + 1000, _LARGEST + 1), 10)
    return next((port for port in candidates if is_free(port)), None) or choose_free(1)[0]
