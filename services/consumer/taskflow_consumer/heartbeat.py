"""The parent's end of the heartbeat: which attempts a sibling process is to keep alive.

A thread would not do: a catastrophic regex, a big `pow` or a large `json.loads` in a handler
holds the interpreter's lock for as long as it takes, and the leases of every other job would run
out meanwhile. The sibling (`heartbeat_process`) renews exactly what it is handed here.
"""

import asyncio
import itertools
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from taskflow.db.roles import DatabaseRole
from taskflow.jobs.leases import RENEW, SURRENDER
from taskflow.jobs.outcomes import Attempt
from taskflow.jobs.workers import BEAT
from taskflow.patience import pause_seconds
from taskflow_consumer.heartbeat_line import Line

RESTARTS_SPARED = 2
SILENT_LOOKS_ALLOWED = 3
SHORTEST_LOOK_SECONDS = 1.0
GOODBYE_SECONDS = 2.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Hold:
    """An attempt in the sibling's care; `deadline` is a monotonic time."""

    attempt: Attempt
    deadline: float | None
    told: set[str] = field(default_factory=set)


class Heartbeat:
    """Keeps a sibling process running and in the picture. To be used from the loop's thread.

    `on_lost` and `on_cancel_requested` take the job's id and the attempt's number, each once a
    hold. An attempt may be called lost while its own outcome is being recorded: the sibling can't
    tell these apart, its owner can.
    """

    def __init__(
        self,
        *,
        worker_id: UUID,
        database_url: str,
        lease_seconds: float,
        heartbeat_seconds: float,
        on_cancel_requested: Callable[[UUID, int], object],
        on_lost: Callable[[UUID, int], object],
    ) -> None:
        self._settings = {
            "worker_id": str(worker_id),
            "database_url": database_url,
            "database_role": DatabaseRole.CONSUMER,
            "lease_seconds": lease_seconds,
            "heartbeat_seconds": heartbeat_seconds,
            "parent_pid": os.getpid(),
            "renew_statement": RENEW,
            "beat_statement": BEAT,
            "surrender_statement": SURRENDER,
        }
        self._heartbeat_seconds = heartbeat_seconds
        self._on_cancel_requested = on_cancel_requested
        self._on_lost = on_lost
        self._handles = itertools.count(1)
        # A handle names one hold: a released attempt's number is given again.
        self._holds: dict[int, _Hold] = {}
        self._handle_of: dict[Attempt, int] = {}
        self._watermarks: dict[str, datetime] = {}
        self._watermarks_told = True
        self._silent_looks = 0
        self._line: Line | None = None
        self._sibling: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the sibling.

        Raises:
            OSError: no process can be started.
        """
        if self._keeper is None:
            await self._spawn()
            self._keeper = asyncio.create_task(self._keep(), name="heartbeat")

    async def stop(self) -> None:
        """End the sibling; nothing is renewed from here on. A second call does nothing."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self._part()

    def hold(self, attempt: Attempt, deadline_seconds: float | None) -> None:
        """Keep an attempt's lease from now on; one that is held already gets a new deadline.

        If it is still held `deadline_seconds` from now, this process hangs: the sibling stops
        renewing and kills it. None: never.
        """
        deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self._tell([self._note(attempt, deadline)])

    def hold_all(self, attempts: Sequence[Attempt]) -> None:
        """Keep the leases of attempts that begin together, as `hold` without a deadline."""
        self._tell([self._note(attempt, None) for attempt in attempts])

    def drop(self, attempt: Attempt) -> None:
        """Let go of an attempt; one that isn't held is passed over."""
        handle = self._handle_of.pop(attempt, None)
        if handle is None:
            return
        hold = self._holds.pop(handle)
        if hold.deadline is not None:
            self._tell([["drop", handle]])
        elif self._line is not None:
            # To renew what has ended does nothing, so it may go along with what comes next.
            self._line.send_soon(["drop", handle])

    def _note(self, attempt: Attempt, deadline: float | None) -> list[Any]:
        handle = self._handle_of.get(attempt)
        if handle is None:
            handle = self._handle_of[attempt] = next(self._handles)
            self._holds[handle] = _Hold(attempt, deadline)
        hold = self._holds[handle]
        hold.deadline = deadline
        return _hold_message(handle, hold)

    def claimed(self, lane_key: str, pointer_at: datetime) -> None:
        """Note how far a lane is taken; one of the next beats carries it into the worker's row."""
        known = self._watermarks.get(lane_key)
        if known is not None and known >= pointer_at:
            return
        self._watermarks[lane_key] = pointer_at
        if self._watermarks_told and self._line is not None:
            self._watermarks_told = False
            # One message for many claims: it is wanted before the beat, not before the next claim.
            loop = asyncio.get_running_loop()
            loop.call_later(self._heartbeat_seconds / 4, self._tell_watermarks)

    def _tell_watermarks(self) -> None:
        self._watermarks_told = True
        self._tell([["watermarks", {key: at.isoformat() for key, at in self._watermarks.items()}]])

    def _tell(self, messages: Iterable[list[Any]]) -> None:
        """Here and now: a handler may hold the interpreter's lock from its first step."""
        # Without a line it is told with everything else when the next sibling comes.
        if self._line is not None:
            self._line.send(*messages)

    async def _keep(self) -> None:
        """Listen to the sibling, and put another one in its place when it dies."""
        deaths = 0
        while True:
            born_at = time.monotonic()
            watch = asyncio.create_task(self._watch(), name="heartbeat-watch")
            try:
                await self._listen()
            except Exception:
                log.exception("heartbeat_broke")
            finally:
                watch.cancel()
            status = await self._part()
            lived = time.monotonic() - born_at
            deaths = deaths + 1 if lived < self._heartbeat_seconds else 1
            log.error("heartbeat_process_died", status=status, holds=len(self._holds))
            await self._respawn(deaths)

    async def _watch(self) -> None:
        """Kill a sibling that has fallen silent: it is frozen, and leases are running out."""
        self._silent_looks = 0
        while self._silent_looks < SILENT_LOOKS_ALLOWED:
            # Looks are counted, not seconds: after a while in which this process was blocked or
            # stopped itself, the sibling's words are there to be read before the next look.
            await asyncio.sleep(max(self._heartbeat_seconds / 2, SHORTEST_LOOK_SECONDS))
            self._silent_looks += 1
        log.error("heartbeat_process_silent")
        if self._sibling is not None:
            _kill(self._sibling)

    async def _respawn(self, deaths: int) -> None:
        # At once, unless they keep on dying.
        failures = deaths - RESTARTS_SPARED
        while self._sibling is None:
            await asyncio.sleep(pause_seconds(failures) if failures > 0 else 0)
            try:
                await self._spawn()
            except OSError as error:
                log.warning("heartbeat_process_not_started", error=str(error))
                failures = max(failures, 0) + 1

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._sibling = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "taskflow_consumer.heartbeat_process",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._line = line = Line(ours)
        line.send(self._settings)
        line.send(*(_hold_message(handle, hold) for handle, hold in self._holds.items()))
        self._tell_watermarks()

    async def _listen(self) -> None:
        if self._line is None:
            return
        async for message in self._line.messages():
            self._silent_looks = 0
            match message:
                case ["log", level, event, fields]:
                    getattr(log, level)(event, **fields)
                case ["lost" | "cancel_requested" as kind, handle] if handle in self._holds:
                    self._pass_on(kind, self._holds[handle])

    def _pass_on(self, kind: str, hold: _Hold) -> None:
        # Told once a hold, though every new sibling finds it out anew.
        if kind in hold.told:
            return
        hold.told.add(kind)
        tell = self._on_lost if kind == "lost" else self._on_cancel_requested
        try:
            tell(hold.attempt.job_id, hold.attempt.number)
        except Exception:
            log.exception("heartbeat_callback_broke", kind=kind, job_id=str(hold.attempt.job_id))

    async def _part(self) -> int | None:
        """Hang up, which ends the sibling, and see it gone; its exit status."""
        line, self._line = self._line, None
        sibling, self._sibling = self._sibling, None
        if line is not None:
            line.send(["part"])
            line.close()
        if sibling is None:
            return None
        try:
            return await asyncio.wait_for(sibling.wait(), GOODBYE_SECONDS)
        except TimeoutError:
            # It is stuck or stopped.
            _kill(sibling)
            return await sibling.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


def _hold_message(handle: int, hold: _Hold) -> list[Any]:
    seconds = None if hold.deadline is None else hold.deadline - time.monotonic()
    return ["hold", handle, str(hold.attempt.job_id), hold.attempt.number, seconds]
