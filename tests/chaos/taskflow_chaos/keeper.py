"""A service under a keeper that starts it again whenever it ends, as systemd would."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskflow_testing import processes

RESTART_SECONDS = 0.1
"""Between an end and the next start, systemd's default."""
_QUICK_END_SECONDS = 1.0
_LONGEST_RESTART_SECONDS = 5.0


@dataclass
class Life:
    """One process of a service, from its start to its end (seconds since 1970)."""

    pid: int
    began: float
    ended: float | None = None
    exit_code: int | None = None


class Keeper:
    """Keeps `command` running. Its output is in one file for all its lives."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_path: Path,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.environment = dict(environment)
        """What its next life begins with; may be changed."""
        self.lives: list[Life] = []
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    @classmethod
    def of_service(
        cls, name: str, module: str, environment: Mapping[str, str], log_path: Path
    ) -> "Keeper":
        """For `python -m <module>`."""
        return cls(name, [sys.executable, "-m", module], environment, log_path)

    @property
    def is_running(self) -> bool:
        """Whether a process lives now."""
        return bool(self.lives) and self.lives[-1].ended is None

    @property
    def pid(self) -> int:
        """The process that lives now, or the last one."""
        return self.lives[-1].pid

    async def start(self) -> None:
        """Start it, and again whenever it ends; returns when the first process is there."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        before = len(self.lives)
        self._keeping = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")
        await self.wait_life(before)

    async def wait_life(self, number: int) -> Life:
        """The life with this number, counted from 0, once it has begun."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.lives) > number)
        return self.lives[number]

    async def wait_end(self, life: Life, seconds: float = 60.0) -> int:
        """Wait for the end of one of its lives; the exit code.

        Raises:
            TimeoutError: it takes longer than `seconds`.
        """
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: life.ended is not None)
        assert life.exit_code is not None
        return life.exit_code

    def signal(self, number: signal.Signals) -> bool:
        """Send its main process a signal; False: none lives."""
        if not self.is_running:
            return False
        processes.signal_all([self.pid], number)
        return True

    def kill(self) -> bool:
        """SIGKILL its main process alone, as an OOM killer does; False: none lives."""
        return self.signal(signal.SIGKILL)

    def freeze(self) -> bool:
        """SIGSTOP its main process alone; False: none lives."""
        return self.signal(signal.SIGSTOP)

    def freeze_all(self) -> bool:
        """SIGSTOP it and all that it has started; False: none lives."""
        return self.is_running and bool(processes.freeze(self.pid))

    def kill_all(self) -> bool:
        """SIGKILL it and all that it has started, none of whom sees another's end; False: none
        lives."""
        if not self.freeze_all():
            return False
        processes.signal_all(processes.tree(self.pid), signal.SIGKILL)
        return True

    def thaw(self) -> bool:
        """SIGCONT whatever of it is frozen; False: none lives."""
        if not self.is_running:
            return False
        processes.signal_all(reversed(processes.tree(self.pid)), signal.SIGCONT)
        return True

    async def restart(self, seconds: float = 60.0) -> int:
        """SIGTERM it and wait for its end, after which it is started again; the exit code.

        Raises:
            TimeoutError: it takes longer than `seconds`.
        """
        life = self.lives[-1]
        self.signal(signal.SIGTERM)
        return await self.wait_end(life, seconds)

    async def stop(self, seconds: float = 60.0) -> int | None:
        """SIGTERM it and start it no more; its exit code, None: it had to be killed."""
        if self._keeping is None:
            return 0
        self._keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeping
        if self._process is None or not self.is_running:
            return 0
        life = self.lives[-1]
        self.thaw()
        self.signal(signal.SIGTERM)
        ending = asyncio.create_task(self._end_of(self._process, life))
        done, _ = await asyncio.wait({ending}, timeout=seconds)
        if done:
            return life.exit_code
        await self.destroy()
        await ending
        return None

    async def destroy(self) -> None:
        """Kill it and all that it has started, and start it no more."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._process is not None and self._process.returncode is None:
            processes.signal_all(processes.tree(self._process.pid), signal.SIGKILL)
            await self._process.wait()

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._process = await self._launch()
            life = Life(self._process.pid, time.time())
            await self._add(life)
            await self._end_of(self._process, life)
            quick = time.time() - life.began < _QUICK_END_SECONDS
            failures = failures + 1 if quick else 0
            pause = RESTART_SECONDS * 2**failures
            await asyncio.sleep(min(pause, _LONGEST_RESTART_SECONDS))

    async def _launch(self) -> asyncio.subprocess.Process:
        # The file is opened for every life alone: a descriptor in the parent would be one more
        # thing to leak.
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                # Away from any .env that is not the suite's.
                cwd=self.log_path.parent,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    async def _end_of(self, process: asyncio.subprocess.Process, life: Life) -> None:
        life.exit_code = await process.wait()
        life.ended = time.time()
        async with self._changed:
            self._changed.notify_all()

    async def _add(self, life: Life) -> None:
        self.lives.append(life)
        async with self._changed:
            self._changed.notify_all()
