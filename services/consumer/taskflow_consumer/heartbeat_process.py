"""The sibling that renews leases: `python -m taskflow_consumer.heartbeat_process <socket fd>`.

It lives and dies with the consumer that started it. It renews exactly the attempts that it was
handed, so that a claim whose answer was lost dies out; it stops while the consumer is stopped; it
kills a consumer that holds an attempt past its deadline, for nothing else could; and when it sees
the consumer dead it ends the leases, so that the jobs go on elsewhere at once. It imports
nothing but asyncpg, and is handed its statements along with its settings: every consumer pays for
the memory of its sibling.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import asyncpg

LONGEST_LOOK_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 1.0
SHORTEST_TIMEOUT_SECONDS = 1.0
GOODBYE_SECONDS = 2
ORPHAN_LOOKS = 50
LAST_CLAIM_SECONDS = 0.3
"""How long PostgreSQL may take to commit a claim whose worker is dead already."""

_AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


@dataclass(slots=True)
class Hold:
    """An attempt to keep alive; `deadline` is a monotonic time."""

    job_id: str
    attempt: int
    deadline: float | None
    lost: bool = False
    told_cancel: bool = False


class Line:
    """JSON lines to and from the consumer, whose lines are lists of messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def messages(self) -> AsyncIterator[Any]:
        """Yield what the consumer says until it is gone."""
        rest = b""
        with contextlib.suppress(OSError):
            while received := await self._reader.read(65_536):
                *lines, rest = (rest + received).split(b"\n")
                for line in lines:
                    for message in json.loads(line):
                        yield message

    def send(self, *message: Any) -> None:
        """Say something, now or when the consumer listens again."""
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


class Sibling:
    """Three tasks: listen to the consumer, look at it, beat for it. The first to end ends all."""

    def __init__(self, settings: dict[str, Any], line: Line, messages: AsyncIterator[Any]) -> None:
        self._worker_id: str = settings["worker_id"]
        self._database_url: str = settings["database_url"]
        self._database_role: str = settings["database_role"]
        self._lease_seconds: float = settings["lease_seconds"]
        self._beat_every: float = settings["heartbeat_seconds"]
        self._parent_pid: int = settings["parent_pid"]
        self._renew_statement: LiteralString = settings["renew_statement"]
        self._beat_statement: LiteralString = settings["beat_statement"]
        self._surrender_statement: LiteralString = settings["surrender_statement"]
        self._look_every = min(LONGEST_LOOK_SECONDS, self._beat_every / 4)
        self._line = line
        self._messages = messages
        self._holds: dict[int, Hold] = {}
        self._watermarks: dict[str, str] = {}
        self._connection: asyncpg.Connection | None = None
        self._condemned = False
        self._registered = True
        self._parted = False

    async def run(self) -> None:
        """Return when the consumer is gone."""
        tasks = [asyncio.create_task(work) for work in (self._listen(), self._look(), self._beat())]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # A name lookup or a statement that hangs must not outlive the consumer.
        signal.alarm(GOODBYE_SECONDS)
        self._disconnect()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in done:
            task.result()
        if not self._parted and await self._is_orphaned():
            await self._surrender()

    async def _is_orphaned(self) -> bool:
        """Whether the consumer has died; its end of the line closes a moment before."""
        for _ in range(ORPHAN_LOOKS):
            if os.getppid() != self._parent_pid:
                return True
            await asyncio.sleep(GOODBYE_SECONDS / 4 / ORPHAN_LOOKS)
        return False

    async def _surrender(self) -> None:
        """End the leases of a consumer that is dead: nobody has to wait until they run out."""
        try:
            connection = await self._connect()
            jobs = await self._end_leases(connection)
            await asyncio.sleep(LAST_CLAIM_SECONDS)
            jobs += await self._end_leases(connection)
        except _AWAY as error:
            _say_for_parent("leases_not_surrendered", error=str(error), jobs=len(self._holds))
        else:
            _say_for_parent("consumer_died", worker_id=self._worker_id, jobs=jobs)
        finally:
            self._disconnect()

    async def _end_leases(self, connection: asyncpg.Connection) -> int:
        status = await connection.execute(self._surrender_statement, self._worker_id)
        return int(status.split()[-1])

    async def _listen(self) -> None:
        async for message in self._messages:
            match message:
                case ["hold", handle, job_id, attempt, seconds]:
                    deadline = None if seconds is None else time.monotonic() + seconds
                    self._holds[handle] = Hold(job_id, attempt, deadline)
                case ["drop", handle]:
                    self._holds.pop(handle, None)
                case ["watermarks", watermarks]:
                    self._watermarks = watermarks
                case ["part"]:
                    self._parted = True

    async def _look(self) -> None:
        """Watch the consumer: end with it, and end it when it hangs."""
        looked_at = time.monotonic()
        while os.getppid() == self._parent_pid:
            now = time.monotonic()
            self._forgive(now - looked_at)
            looked_at = now
            if self._overdue(now) and not is_stopped(self._parent_pid):
                self._end_parent(now)
            self._line.send("alive")
            await asyncio.sleep(self._look_every)

    def _forgive(self, passed: float) -> None:
        """Time in which the consumer was stopped, or this process was, doesn't count."""
        stopped = is_stopped(self._parent_pid)
        if stopped or passed > 4 * self._look_every + LONGEST_LOOK_SECONDS:
            for hold in self._holds.values():
                if hold.deadline is not None:
                    hold.deadline += passed

    def _overdue(self, now: float) -> list[Hold]:
        return [
            hold
            for hold in self._holds.values()
            if hold.deadline is not None and now > hold.deadline
        ]

    def _end_parent(self, now: float) -> None:
        # A consumer that is process 1 of a container can't be killed from inside: then, at least,
        # nothing of it is renewed any more.
        if not self._condemned:
            self._condemned = True
            _say_for_parent(
                "consumer_hangs",
                parent_pid=self._parent_pid,
                worker_id=self._worker_id,
                job_ids=[hold.job_id for hold in self._overdue(now)],
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._parent_pid, signal.SIGKILL)

    async def _beat(self) -> None:
        failures = 0
        while True:
            began_at = time.monotonic()
            if self._condemned or is_stopped(self._parent_pid):
                await asyncio.sleep(self._look_every)
                continue
            try:
                await self._renew()
            except _AWAY as error:
                self._disconnect()
                failures += 1
                self._report_away(error, failures)
                await asyncio.sleep(self._retry_seconds(failures))
                continue
            if failures:
                self._line.send("log", "info", "heartbeat_resumed", {"failures": failures})
            failures = 0
            await asyncio.sleep(began_at + self._beat_every - time.monotonic())

    async def _renew(self) -> None:
        connection = await self._connect()
        holds = {handle: hold for handle, hold in self._holds.items() if not hold.lost}
        if holds:
            rows = await connection.fetch(
                self._renew_statement,
                [hold.job_id for hold in holds.values()],
                [hold.attempt for hold in holds.values()],
                self._worker_id,
                self._lease_seconds,
            )
            renewed = {(str(row["id"]), row["attempt"]): row["cancel_requested"] for row in rows}
            self._report(holds, renewed)
        beaten = await connection.fetchval(
            self._beat_statement, self._worker_id, json.dumps(self._watermarks)
        )
        if beaten is None and self._registered:
            self._line.send("log", "warning", "worker_not_registered", {})
        self._registered = beaten is not None

    def _report(self, holds: dict[int, Hold], renewed: dict[tuple[str, int], bool]) -> None:
        for handle, hold in holds.items():
            # Dropped while the statement ran; its number may have been handed over anew since.
            if self._holds.get(handle) is not hold:
                continue
            cancel_requested = renewed.get((hold.job_id, hold.attempt))
            if cancel_requested is None:
                hold.lost = True
                self._line.send("lost", handle)
            elif cancel_requested and not hold.told_cancel:
                hold.told_cancel = True
                self._line.send("cancel_requested", handle)

    async def _connect(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            timeout = max(self._beat_every, SHORTEST_TIMEOUT_SECONDS)
            self._connection = await asyncpg.connect(
                self._database_url,
                timeout=timeout,
                # The server's own limit comes first; this one is for a server that is frozen.
                command_timeout=timeout,
                server_settings={
                    "role": self._database_role,
                    "application_name": "taskflow-heartbeat",
                    "statement_timeout": str(int(timeout * 900)),
                },
            )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _report_away(self, error: BaseException, failures: int) -> None:
        # Said when it begins, then at every tenth try: an outage must not fill a disk.
        if failures % 10 == 1:
            text = str(error) or type(error).__name__
            fields = {"error": text, "failures": failures, "holds": len(self._holds)}
            self._line.send("log", "warning", "heartbeat_failed", fields)

    def _retry_seconds(self, failures: int) -> float:
        longest = min(0.1 * 2.0 ** min(failures, 10), LONGEST_RETRY_SECONDS, self._beat_every)
        return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, not a secret


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger; where no /proc tells: no."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # The name before the state is in brackets and may hold any character.
    return stat.rpartition(b")")[2].split()[0] in {b"T", b"t"}


def _say_for_parent(event: str, **fields: Any) -> None:
    """Log what the consumer can't log any more, in the form of its log."""
    line = {"level": "error", "logger": __name__, "event": event, **fields}
    sys.stderr.write(json.dumps(line) + "\n")


async def main(parent: socket.socket) -> None:
    """Take the settings from the consumer, then beat for it."""
    reader, writer = await asyncio.open_connection(sock=parent)
    line = Line(reader, writer)
    messages = line.messages()
    settings = await anext(messages, None)
    if settings is not None:
        await Sibling(settings, line, messages).run()


if __name__ == "__main__":
    # The consumer goes on working after these, and its leases have to be kept until it is gone.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(main(socket.socket(fileno=int(sys.argv[1]))))
