"""Signals that end us: what was begun is undone first, and what runs for us ends first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen
from types import FrameType
from typing import NoReturn

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def raise_on_ending() -> None:
    """Make each of these signals raise KeyboardInterrupt, as a Ctrl-C does anyway."""
    for number in _ENDING:
        signal.signal(number, _raise)


@contextmanager
def ignored() -> Iterator[None]:
    """Let nothing interrupt the block: an impatient second Ctrl-C leaves nothing half-stopped."""
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def left_to(process: "Popen[bytes]") -> Iterator[None]:
    """Outlive the command that these signals end; those it would not see are passed on."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        # A Ctrl-C has reached the command already: the terminal sends it to both.
        if number != signal.SIGINT:
            process.send_signal(number)

    with _handled_by(pass_on):
        yield


@contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _ENDING}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _raise(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
