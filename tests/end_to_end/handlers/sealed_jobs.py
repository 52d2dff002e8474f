"""Jobs that keep what they were given in every place there is: TASKFLOW_HANDLERS=sealed_jobs."""

from typing import Any

from pydantic import BaseModel

from taskflow import Fail, JobContext, Retry, SyncJobContext, job


class Words(BaseModel):
    """What to keep, and how often."""

    text: str
    times: int = 1


@job("sealed.remembers")
async def remembers(payload: Words, ctx: JobContext) -> list[Any]:
    """Fail once, and remember."""
    if ctx.attempt == 1:
        await ctx.checkpoint.save({"text": payload.text})
        raise Retry(f"once more with {payload.text}", delay_seconds=0)
    return [payload.text, ctx.checkpoint.value]


@job("sealed.isolated", isolation="process")
def isolated(payload: Words, ctx: SyncJobContext) -> str:
    """Remember in a process of its own."""
    ctx.checkpoint.save(payload.text)
    return payload.text * payload.times


@job("sealed.fails", max_attempts=1)
async def fails(payload: Words) -> None:
    """Say it in an error."""
    raise Fail(f"can't do {payload.text}")
