"""A call in a process of its own, which a stop kills with all that it has started."""

import asyncio
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar

from taskflow.jobs.outcomes import JobError
from taskflow.sdk.context import AttemptServices
from taskflow.sdk.json_values import said
from taskflow_consumer.isolation import child
from taskflow_consumer.isolation.child_server import ChildServer
from taskflow_consumer.isolation.ending import Ending, Raised
from taskflow_consumer.isolation.wire import WireError, encode

LAUNCH_TRIES = 4
LAUNCH_PAUSE_SECONDS = 0.1
GOODBYE_SECONDS = 1.0
"""How long a child may take to end once its ending is known."""
LAST_WORDS_SECONDS = 2.0
"""How long it may take to read what a dead child has sent."""
KILL_SECONDS = 5.0
"""How long a kill may take; a process in an uninterruptible wait is left behind."""
_UNTOLD = 255
"""What multiprocessing says of a child whose fork server died before it could tell."""

T = TypeVar("T")


@dataclass(slots=True)
class _Child:
    """A process of ours; `exited` is done when it has ended. It lives while `lifeline` is open."""

    process: BaseProcess
    pid: int
    exited: "asyncio.Future[None]"
    lifeline: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def kill_group(self) -> None:
        """Kill the child, if it lives, and all that it has started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            # Gone; or so young that it has made no group yet.
            if not self.exited.done():
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)


class Processes:
    """Starts a child for each call, forked where possible from a server with all modules loaded."""

    def __init__(
        self, modules: Sequence[str], start_method: Literal["forkserver", "spawn"] | None = None
    ) -> None:
        """`modules` are those that define isolated jobs."""
        self._context = _start_context(start_method)
        self._context.set_forkserver_preload([child.__name__, *modules])
        # One thread for all that multiprocessing does: an exit code is sent once, and two threads
        # could both wait for it.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="job-processes")

    async def warm_up(self) -> None:
        """Return when the fork server has made its imports, so that no job waits for them.

        Raises:
            OSError: no process can be started.
        """
        if isinstance(self._context, ForkServerContext):
            await self._in_keeper(self._try_out)

    async def call(self, errand: child.Errand, services: AttemptServices) -> Ending:
        """Call a handler in a child. To cancel the call is to kill the child and its group."""
        try:
            running = await self._start()
        except (OSError, EOFError, RuntimeError) as error:
            message = f"The job's process could not be started: {said(error)}"
            return Raised(JobError("worker_process_not_started", message, retryable=True))
        try:
            ending = await _converse(running, errand, services)
            if ending is not None:
                await asyncio.wait({running.exited}, timeout=GOODBYE_SECONDS)
        except WireError as error:
            ending = Raised(_death(f"sent what its consumer can't understand ({error})"))
        finally:
            exit_code = await self._end(running)
        return ending or _died(exit_code, errand.memory_mib)

    async def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        lifeline, its_end = socket.socketpair()
        launch = asyncio.ensure_future(self._in_keeper(lambda: self._launch(theirs, its_end)))
        try:
            process, pid = await asyncio.shield(launch)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            # A launch can't be called back; but a child without its pipe ends at once.
            ours.close()
            lifeline.close()
            launch.add_done_callback(_look_at)
            raise
        return _Child(process, pid, _readable(process.sentinel), lifeline, reader, writer)

    def _try_out(self) -> None:
        _block_sigterm()
        process = self._context.Process(target=child.do_nothing)
        process.start()
        process.join()
        process.close()

    def _launch(
        self, connection: socket.socket, lifeline: socket.socket
    ) -> tuple[BaseProcess, int]:
        with connection, lifeline:
            for tries_left in reversed(range(LAUNCH_TRIES)):
                process = self._context.Process(
                    target=child.main, args=(connection, lifeline), name="job"
                )
                _block_sigterm()
                try:
                    process.start()
                except (ConnectionError, EOFError):
                    # The fork server has died; multiprocessing replaces it once it is quite dead.
                    if not tries_left:
                        raise
                    time.sleep(LAUNCH_PAUSE_SECONDS)
                else:
                    break
        if process.pid is None:
            raise OSError("it has no process id")
        return process, process.pid

    async def _end(self, running: _Child) -> int | None:
        """Kill what is left of the child and of its group; its exit code, unless unknown."""
        running.kill_group()
        running.lifeline.close()
        running.writer.close()
        await asyncio.wait({running.exited}, timeout=KILL_SECONDS)
        asyncio.get_running_loop().remove_reader(running.process.sentinel)
        return await self._in_keeper(lambda: _reap(running.process))

    async def _in_keeper(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._keeper, function)


async def _converse(
    running: _Child, errand: child.Errand, services: AttemptServices
) -> Ending | None:
    """Serve the child until its ending; None: it died without one."""
    running.writer.write(encode(asdict(errand)))
    serving = asyncio.create_task(ChildServer(running.reader, running.writer, services).serve())
    either: set[asyncio.Future[Any]] = {serving, running.exited}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            # Its descendants may hold the pipe open; what it has said itself is still in there.
            running.kill_group()
            await asyncio.wait({serving}, timeout=LAST_WORDS_SECONDS)
        return serving.result() if serving.done() else None
    finally:
        serving.cancel()


def _start_context(
    method: Literal["forkserver", "spawn"] | None,
) -> ForkServerContext | SpawnContext:
    if method == "spawn" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("forkserver")


def _block_sigterm() -> None:
    """Make what this thread starts deaf to SIGTERM.

    A signal to the whole process group must leave the jobs to us. The tracker comes first because
    its own start unblocks the signal.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _look_at(launch: "asyncio.Future[Any]") -> None:
    """Whoever wanted to know has gone; asyncio complains of an exception that nobody sees."""
    if not launch.cancelled():
        launch.exception()


def _readable(descriptor: int) -> "asyncio.Future[None]":
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        loop.remove_reader(descriptor)
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(descriptor, settle)
    return readable


def _reap(process: BaseProcess) -> int | None:
    exit_code = process.exitcode
    if exit_code is not None:
        process.close()
    return exit_code


def _died(exit_code: int | None, memory_mib: int | None) -> Raised:
    if exit_code is None:
        return Raised(_death("does not answer and can't be killed"))
    if exit_code == _UNTOLD:
        # It may have died of the fork server's death, and that says nothing against this job.
        return Raised(_death(f"is gone, by exit code {exit_code} or along with the fork server"))
    if exit_code >= 0:
        return _gone(f"ended by itself with exit code {exit_code}")
    hint = " (out of memory?)" if -exit_code == signal.SIGKILL else ""
    if memory_mib is not None and not hint:
        # Code in C seldom bears an allocation that fails.
        hint = f" (its memory is limited to {memory_mib} MiB)"
    return _gone(f"was killed by {_signal_name(-exit_code)}{hint}")


def _gone(how: str) -> Raised:
    return Raised(_death(how), process_died=True)


def _signal_name(number: int) -> str:
    known = {each.value: each.name for each in signal.Signals}
    return known.get(number, f"signal {number}")


def _death(what: str) -> JobError:
    return JobError("worker_process_died", f"The job's process {what}.", retryable=True)
