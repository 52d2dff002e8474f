"""Fills the spool while logs can't be stored, and stores what is in there, other processes' too."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import structlog

from taskflow.patience import pause_seconds
from taskflow_consumer import log_spool
from taskflow_consumer.log_objects import STORAGE_AWAY, STORAGE_REFUSES, LogObject, LogStorage
from taskflow_consumer.log_outage import Outage
from taskflow_consumer.log_spool import LogSpool, SpoolDamaged, SpoolFolder

LONGEST_PAUSE_SECONDS = 5.0
ADOPT_EVERY_SECONDS = 10.0

LAST_TRY_SECONDS = 2.0
"""How long the end waits for a try that is under way while storing fails."""

LEAVE_SECONDS = 1.0
"""How long a task may take to end that was cancelled; it may be giving a connection back."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class LogSpooler:
    """Keeps objects on disk, and stores them one after the other as soon as that works again.

    Nothing of this fails a job: what the disk can't take stays with the caller. One thread does
    all the reading and writing, so that a disk that hangs holds up nothing else.
    """

    def __init__(self, spool: LogSpool, storage: LogStorage, outage: Outage) -> None:
        self._spool = spool
        self._storage = storage
        self._outage = outage
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="log-spool")
        self._folder: SpoolFolder | None = None
        self._adopted: SpoolFolder | None = None
        self._waiting: deque[Path] = deque()
        self._inherited: deque[Path] = deque()
        # Once is enough: what stays in a folder meets the same again, at once and for ever.
        self._gone_through: set[Path] = set()
        self._filled = asyncio.Event()
        self._moved = asyncio.Event()
        self._failures = 0
        self._is_trying = False
        self._refuses = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing of this process's waits in it; else whatever comes has to follow."""
        return not self._waiting

    def start(self) -> None:
        """Begin to store what waits, and what dead processes have left; again does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="log-spooler")

    async def keep(self, objects: Sequence[LogObject]) -> bool:
        """Take these after those that wait; False: there is no room for all of them."""
        try:
            paths = await self._on_disk(lambda: self._write(objects))
        except OSError as error:
            # Said once, not at every try.
            if not self._refuses:
                log.warning("log_spool_refuses", error=str(error))
            self._refuses = True
            return False
        self._refuses = False
        self._waiting.extend(path for path in paths if path not in self._waiting)
        self._filled.set()
        return True

    async def finish(self) -> None:
        """Return when nothing of this process's waits, or storing it fails.

        A try that is under way after others that failed may be the first that succeeds: it is
        waited for, but not for long, as what comes after the logs needs its time too.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_TRY_SECONDS if self._failures else None) as limit:
                while self._waiting and (self._is_trying or not self._failures):
                    self._moved.clear()
                    await self._moved.wait()
                    if not self._failures:
                        limit.reschedule(None)

    async def stop(self) -> None:
        """End; what waits is left to the next process on this host. Again does nothing."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await end_of(task, "log_spooler_failed")
        self._disk.submit(self._leave)
        self._disk.shutdown(wait=False)
        if self._waiting:
            log.warning("log_spool_left", objects=len(self._waiting))

    async def _run(self) -> None:
        while True:
            path = await self._next()
            self._is_trying = True
            try:
                await self._move(path)
            except STORAGE_AWAY as error:
                self._outage.begin(error)
                self._failures += 1
                self._is_trying = False
                self._moved.set()
                pause = pause_seconds(self._failures, last=LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause)
            except Exception:
                # A defect: without this one the others can still go on, and it stays where it is.
                log.exception("log_spool_file_left", file=str(path))
                self._done_with(path)
            else:
                self._failures = 0
                self._done_with(path)

    async def _next(self) -> Path:
        """The file to be stored next; this process's go first, for new ones must follow them."""
        while True:
            self._filled.clear()
            if self._waiting:
                return self._waiting[0]
            if not self._inherited:
                await self._adopt()
            if self._inherited:
                return self._inherited[0]
            try:
                async with asyncio.timeout(ADOPT_EVERY_SECONDS):
                    await self._filled.wait()
            except TimeoutError:
                continue

    async def _move(self, path: Path) -> None:
        """Store what is in a file, then delete it."""
        try:
            item = await self._on_disk(lambda: log_spool.read(path))
        except (SpoolDamaged, FileNotFoundError) as error:
            log.error("log_lines_lost", reason="unreadable", file=str(path), error=str(error))  # noqa: TRY400
        except OSError as error:
            # A descriptor or memory may be all that is missing; the next process tries it anew.
            log.warning("log_spool_file_left", file=str(path), error=str(error))
            return
        else:
            await self._store(item)
        try:
            await self._on_disk(lambda: path.unlink(missing_ok=True))
        except OSError as error:
            # The next process stores it once more, which changes nothing.
            log.warning("log_spool_file_left", file=str(path), error=str(error))

    def _done_with(self, path: Path) -> None:
        self._is_trying = False
        for queue in (self._waiting, self._inherited):
            if queue and queue[0] == path:
                queue.popleft()
        if not self._waiting:
            self._outage.end()
        self._moved.set()

    async def _store(self, item: LogObject) -> None:
        try:
            await self._storage.store([item])
        except STORAGE_REFUSES:
            log.exception("log_lines_lost", lines=item.lines, reason="refused")

    async def _adopt(self) -> None:
        done, self._adopted = self._adopted, None
        try:
            if done is not None:
                await self._on_disk(done.leave)
            self._adopted = await self._on_disk(lambda: self._spool.adopt(self._gone_through))
            if self._adopted is None:
                return
            self._gone_through.add(self._adopted.path)
            unfinished = await self._on_disk(self._adopted.clear_unfinished)
            self._inherited.extend(await self._on_disk(self._adopted.files))
        except OSError as error:
            log.warning("log_spool_not_adopted", error=str(error))
        else:
            name, files = self._adopted.path.name, len(self._inherited)
            log.info("log_spool_adopted", folder=name, files=files, unfinished_bytes=unfinished)

    def _write(self, objects: Sequence[LogObject]) -> list[Path]:
        self._spool.require_room(sum(len(item.data) for item in objects))
        if self._folder is None:
            self._folder = self._spool.make_folder()
        written: list[Path] = []
        # The caller keeps all of a round that fails: files of it would be nobody's until our end.
        with ExitStack() as undoing:
            for item in objects:
                path = self._folder.write(item)
                undoing.callback(path.unlink)
                written.append(path)
            undoing.pop_all()
        return written

    def _leave(self) -> None:
        for folder in (self._folder, self._adopted):
            if folder is not None:
                folder.leave()

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)


async def end_of(task: "asyncio.Task[None]", failed: str) -> None:
    """Wait a little for a task that is to end; say what it failed with, as the event `failed`."""
    await asyncio.wait({task}, timeout=LEAVE_SECONDS)
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        log.error(failed, exc_info=error)
