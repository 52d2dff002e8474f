"""Jobs for trials: one that works, one that takes its time, one that fails."""

import asyncio
import time

from pydantic import BaseModel, Field

from taskflow import Fail, JobContext, job

LONGEST_SLEEP_SECONDS = 86_400.0
REPORTS = 100
LEAST_STEP_SECONDS = 0.2
MOST_FAILURES = 1_000_000
"""Far more than there are attempts. Each of them writes the number down, in rows and in its log."""


class Echo(BaseModel):
    """What to say."""

    text: str


class Sleep(BaseModel):
    """How long to sleep, in seconds."""

    seconds: float = Field(ge=0, le=LONGEST_SLEEP_SECONDS)


class Flaky(BaseModel):
    """How often to fail before it works; or to fail for good at once."""

    fail_times: int = Field(1, ge=0, le=MOST_FAILURES)
    permanent: bool = False


class Flake(Exception):
    """The failure that `flaky` was asked for."""


@job("echo")
async def echo(payload: Echo, ctx: JobContext) -> dict[str, str]:
    """Return the text that it is given."""
    ctx.log.info("echo", text=payload.text)
    return {"text": payload.text}


@job("sleep")
async def sleep(payload: Sleep, ctx: JobContext) -> dict[str, float]:
    """Sleep for a while and say how far it is."""
    started_at = time.monotonic()
    step = max(LEAST_STEP_SECONDS, payload.seconds / REPORTS)
    while (left := started_at + payload.seconds - time.monotonic()) > 0:
        await ctx.progress(100 * (1 - left / payload.seconds))
        await asyncio.sleep(min(step, left))
    await ctx.progress(100)
    return {"slept_seconds": payload.seconds}


@job("flaky")
async def flaky(payload: Flaky, ctx: JobContext) -> dict[str, int]:
    """Fail `fail_times` times, then work; with `permanent` fail for good."""
    if payload.permanent:
        raise Fail("This job was asked to fail for good.")
    if ctx.attempt <= payload.fail_times:
        raise Flake(f"This is failure {ctx.attempt} of the {payload.fail_times} asked for.")
    return {"attempts": ctx.attempt}
