"""Jobs that behave in the ways that tests need: TASKFLOW_HANDLERS=trial_jobs."""

import asyncio
import ctypes
import logging
import os
import time
from typing import Any

from pydantic import BaseModel

from taskflow import Fail, JobContext, Retry, SyncJobContext, job

log = logging.getLogger("trial")


class Nothing(BaseModel):
    """No payload."""


class Seconds(BaseModel):
    """How long."""

    seconds: float


class Megabytes(BaseModel):
    """How much."""

    megabytes: int


class Later(BaseModel):
    """How long a retry waits."""

    delay_seconds: float


@job("trial.logs")
async def logs(ctx: JobContext) -> dict[str, Any]:
    """Say something in every way there is, with progress."""
    ctx.log.info("by the context", width=320, emoji="🦊")
    log.warning("by logging: %s", "really")
    await asyncio.to_thread(log.error, "by a thread")
    await ctx.progress(40, "getting there")
    return {"attempt": ctx.attempt, "job_id": str(ctx.job_id)}


@job("trial.fails_with_log")
async def fails_with_log(ctx: JobContext) -> None:
    """Log, then fail for good."""
    ctx.log.info("the last words")
    raise Fail("it can never work")


@job("trial.waits", timeout_seconds=120)
async def waits(payload: Seconds, ctx: JobContext) -> str:
    """Say so, and wait."""
    ctx.log.info("waiting", number=ctx.attempt)
    await ctx.progress(10, "waiting")
    await asyncio.sleep(payload.seconds)
    return "waited"


@job("trial.retries", max_attempts=2)
async def retries(payload: Later, ctx: JobContext) -> int:
    """Ask for one retry."""
    if ctx.attempt == 1:
        raise Retry("not now", delay_seconds=payload.delay_seconds)
    return ctx.attempt


@job("trial.in_thread")
def in_thread(payload: Seconds, ctx: SyncJobContext) -> str:
    """Block a thread, and stop when told so."""
    ctx.log.info("blocking")
    end = time.monotonic() + payload.seconds
    while time.monotonic() < end:
        if ctx.cancelled:
            return "stopped"
        time.sleep(0.05)
    return "slept"


@job("trial.isolated", isolation="process")
def isolated(payload: Seconds, ctx: SyncJobContext) -> dict[str, int]:
    """Block a process of its own, without ever looking up."""
    ctx.log.info("isolated", pid=os.getpid())
    log.info("by logging, isolated")
    ctx.progress(50, str(os.getpid()))
    time.sleep(payload.seconds)
    return {"pid": os.getpid()}


@job("trial.holds_interpreter", timeout_seconds=60)
def holds_interpreter(payload: Seconds) -> str:
    """Hold the interpreter's lock all the time, as a catastrophic regular expression does."""
    ctypes.PyDLL(None).usleep(int(payload.seconds * 1_000_000))
    return "done"


@job("trial.logs_much")
def logs_much(payload: Megabytes, ctx: SyncJobContext) -> str:
    """Log many lines of a kilobyte."""
    line = "x" * 900
    for number in range(payload.megabytes * 1024):
        ctx.log.info(line, number=number)
    ctx.log.info("that was all")
    return "done"


@job("trial.exits", max_attempts=1)
async def exits() -> None:
    """End the process, or so it thinks."""
    raise SystemExit(3)


@job("trial.exits_in_thread", max_attempts=1)
def exits_in_thread() -> None:
    """End the process from a thread, or so it thinks."""
    raise SystemExit(3)


@job("trial.exits_isolated", max_attempts=1, isolation="process")
def exits_isolated() -> None:
    """Really end the process, which is its own."""
    os._exit(3)


@job("trial.no_json", max_attempts=2)
async def no_json() -> object:
    """Return what has no JSON."""
    return object()
