"""The wish to end: the first time in peace, the second time at once."""

import asyncio


class Shutdown:
    """Two events that signals set."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._at_once = asyncio.Event()

    def ask(self) -> None:
        """Ask for the end; again: for the end at once."""
        if self._asked.is_set():
            self._at_once.set()
        self._asked.set()

    async def wait(self) -> None:
        """Return when the end was asked for."""
        await self._asked.wait()

    async def wait_at_once(self) -> None:
        """Return when the end was asked for a second time."""
        await self._at_once.wait()
