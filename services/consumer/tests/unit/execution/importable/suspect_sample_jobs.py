"""Ordinary jobs that another process can find, some of which kill what runs them."""

import asyncio
import os
import threading

from taskflow import JobContext, job


@job("suspect.async")
async def innocent(ctx: JobContext) -> dict[str, int]:
    ctx.log.info("here", attempt=ctx.attempt)
    return {"pid": os.getpid()}


@job("suspect.def")
def innocent_in_thread() -> dict[str, object]:
    is_main = threading.current_thread() is threading.main_thread()
    return {"pid": os.getpid(), "main": is_main}


@job("suspect.kills")
async def kills() -> None:
    os._exit(9)


@job("suspect.waits")
async def waits(ctx: JobContext) -> None:
    ctx.log.info("waiting")
    await asyncio.sleep(60)


@job("suspect.raises")
async def raises() -> None:
    raise ValueError("not deadly")
