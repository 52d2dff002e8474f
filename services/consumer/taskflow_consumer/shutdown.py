"""The wish to end: the first time in peace, the second time at once; or to be begun anew."""

import asyncio

RENEWAL_EXIT_CODE = 75
"""Not 0, so that a supervisor that restarts only what failed starts a new process, too."""


class Shutdown:
    """Two events that signals set; the first one also by the process itself, to be renewed."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._signalled = asyncio.Event()
        self._at_once = asyncio.Event()

    @property
    def exit_code(self) -> int:
        """What the process is to end with."""
        return RENEWAL_EXIT_CODE if self.is_renewal else 0

    @property
    def is_renewal(self) -> bool:
        """Whether the process itself asked, and no signal came since."""
        return self._asked.is_set() and not self._signalled.is_set()

    def ask(self) -> None:
        """Take a signal: ask for the end; the second time: for the end at once."""
        if self._signalled.is_set():
            self._at_once.set()
        self._signalled.set()
        self._asked.set()

    def renew(self) -> None:
        """Ask for the end in peace, for another process to take over."""
        self._asked.set()

    async def wait(self) -> None:
        """Return when the end was asked for."""
        await self._asked.wait()

    async def wait_signal(self) -> None:
        """Return when a signal has asked for the end."""
        await self._signalled.wait()

    async def wait_at_once(self) -> None:
        """Return when the end was asked for a second time."""
        await self._at_once.wait()
