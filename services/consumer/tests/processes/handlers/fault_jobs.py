"""Jobs that do what a consumer has to bear: TASKFLOW_HANDLERS=fault_jobs."""

import asyncio
import ctypes
import os
import time
from pathlib import Path

from pydantic import BaseModel

from taskflow import JobContext, SyncJobContext, job


class Marked(BaseModel):
    """A file to which each begin of the handler adds a line, and how long it takes."""

    path: str
    seconds: float = 0.0


def _mark(payload: Marked, ctx: JobContext | SyncJobContext) -> None:
    with Path(payload.path).open("a") as file:
        file.write(f"{ctx.job_id} {ctx.attempt} {os.getpid()}\n")


@job("fault.kills")
async def kills(payload: Marked, ctx: JobContext) -> None:
    """End the process that runs it."""
    _mark(payload, ctx)
    os._exit(3)


@job("fault.waits")
async def waits(payload: Marked, ctx: JobContext) -> str:
    """Log, wait, and log again."""
    _mark(payload, ctx)
    ctx.log.info("begun")
    await ctx.progress(10, f"attempt {ctx.attempt}")
    await asyncio.sleep(payload.seconds)
    ctx.log.info("ended")
    return "waited"


class Growing(Marked):
    """How much memory is never given back."""

    mebibytes: int


_kept: list[bytearray] = []


@job("fault.grows")
async def grows(payload: Growing, ctx: JobContext) -> None:
    """Leak memory, which is written to and so is resident."""
    _mark(payload, ctx)
    _kept.append(bytearray(b"x") * (payload.mebibytes * 1024 * 1024))


@job("fault.lines")
async def lines(payload: Marked, ctx: JobContext) -> str:
    """Log a numbered line every 50 ms for so many seconds."""
    _mark(payload, ctx)
    number = 0
    end = time.monotonic() + payload.seconds
    while time.monotonic() < end:
        ctx.log.info("line", number=number)
        number += 1
        await asyncio.sleep(0.05)
    return "logged"


@job("fault.thread")
def thread(payload: Marked, ctx: SyncJobContext) -> str:
    """Block a thread, and never look whether it is to stop."""
    _mark(payload, ctx)
    time.sleep(payload.seconds)
    return "slept"


@job("fault.process", isolation="process")
def process(payload: Marked, ctx: SyncJobContext) -> str:
    """Block a process of its own."""
    _mark(payload, ctx)
    time.sleep(payload.seconds)
    return "slept"


@job("fault.blocks_loop")
async def blocks_loop(payload: Marked, ctx: JobContext) -> str:
    """Block the loop, as `time.sleep` in an `async def` does."""
    _mark(payload, ctx)
    time.sleep(payload.seconds)  # noqa: ASYNC251 - what it is for
    return "blocked"


@job("fault.holds_interpreter")
async def holds_interpreter(payload: Marked, ctx: JobContext) -> str:
    """Hold the interpreter's lock all the time, as a catastrophic regular expression does."""
    _mark(payload, ctx)
    ctypes.PyDLL(None).usleep(int(payload.seconds * 1_000_000))
    return "held"


@job("fault.writes_late")
async def writes_late(payload: Marked, ctx: JobContext) -> str:
    """Write whatever a job can write, again and again until the time is over."""
    _mark(payload, ctx)
    end = time.monotonic() + payload.seconds
    while time.monotonic() < end:
        ctx.log.info("by", attempt_said=ctx.attempt, pid=os.getpid())
        await ctx.progress(ctx.attempt, f"attempt {ctx.attempt}")
        await ctx.artifacts.put("who.txt", f"{ctx.attempt}".encode())
        await ctx.checkpoint.save({"attempt": ctx.attempt})
        await asyncio.sleep(0.02)
    return f"attempt {ctx.attempt}"
