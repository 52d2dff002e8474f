"""The jobs of the suite, written as a user writes them: TASKFLOW_HANDLERS=taskflow_chaos.handlers.

What they did is noted outside of TaskFlow's control: a line when an attempt begins and one when it
is done, appended to one file a process in the folder that CHAOS_EFFECTS names.
"""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from taskflow import JobContext, SyncJobContext, job

EFFECTS_VARIABLE = "CHAOS_EFFECTS"

# Workers are killed more often than a user's budget would bear: a job must come through all of it.
_MAX_ATTEMPTS = 50
_TIMEOUT_SECONDS = 120
_LOOK_SECONDS = 0.1

CHATTY_LINES = 1_000
"""How many lines a `chaos.chatty` logs, of about a KiB each."""
_CHATTY_LINE_BYTES = 1_000

Poison = Literal["is_killed", "exits", "segfaults"]
"""How a job ends whatever runs it, at each of its attempts."""
Behaviour = Literal["completes", "fails_once", "kills_worker"] | Poison
_DEATHS: Mapping[Behaviour, Callable[[], object]] = {
    "is_killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(1),
    "segfaults": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


class Work(BaseModel):
    """How long it takes, and how its first attempt goes, or for poison each of them."""

    seconds: float
    behaviour: Behaviour = "completes"


@job("chaos.work", max_attempts=_MAX_ATTEMPTS, timeout_seconds=_TIMEOUT_SECONDS)
async def work(payload: Work, ctx: JobContext) -> dict[str, int]:
    """Wait in the worker's loop."""
    note_effect("began", ctx)
    ctx.log.info("works", seconds=payload.seconds, behaviour=payload.behaviour)
    await asyncio.sleep(payload.seconds)
    _misbehave(payload, ctx)
    note_effect("done", ctx)
    return {"attempt": ctx.attempt}


@job("chaos.thread", max_attempts=_MAX_ATTEMPTS, timeout_seconds=_TIMEOUT_SECONDS)
def work_in_thread(payload: Work, ctx: SyncJobContext) -> dict[str, int]:
    """Wait in a thread, and stop when told so."""
    note_effect("began", ctx)
    ctx.log.info("works", seconds=payload.seconds, behaviour=payload.behaviour)
    end = time.monotonic() + payload.seconds
    pause = threading.Event()
    while (left := end - time.monotonic()) > 0:
        if ctx.cancelled:
            return {"attempt": ctx.attempt}
        # `time.sleep` fails where libfaketime leaves the monotonic clock alone.
        pause.wait(min(left, _LOOK_SECONDS))
    _misbehave(payload, ctx)
    note_effect("done", ctx)
    return {"attempt": ctx.attempt}


@job("chaos.chatty", max_attempts=_MAX_ATTEMPTS, timeout_seconds=_TIMEOUT_SECONDS)
async def chat(payload: Work, ctx: JobContext) -> dict[str, int]:
    """Write a log of about a MiB; a moment between the lines for the others in the loop."""
    note_effect("began", ctx)
    for number in range(CHATTY_LINES):
        ctx.log.info("chats", number=number, text="x" * _CHATTY_LINE_BYTES)
        await asyncio.sleep(payload.seconds / CHATTY_LINES)
    note_effect("done", ctx)
    return {"attempt": ctx.attempt}


def note_effect(what: Literal["began", "done"], ctx: JobContext | SyncJobContext) -> None:
    """Append a line that survives this process."""
    line = json.dumps(
        {
            "what": what,
            "job_id": str(ctx.job_id),
            "attempt": ctx.attempt,
            "pid": os.getpid(),
            "at": time.time(),
        }
    )
    path = Path(os.environ[EFFECTS_VARIABLE]) / f"{os.getpid()}.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _misbehave(payload: Work, ctx: JobContext | SyncJobContext) -> None:
    if payload.behaviour in _DEATHS:
        _DEATHS[payload.behaviour]()
    if ctx.attempt > 1:
        return
    if payload.behaviour == "kills_worker":
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.behaviour == "fails_once":
        raise RuntimeError("the first attempt fails")
