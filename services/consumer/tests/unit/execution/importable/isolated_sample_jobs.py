"""Jobs that run in processes of their own."""

import asyncio
import ctypes
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from taskflow import Fail, JobContext, Retry, SyncJobContext, job
from taskflow.errors import ObjectMissing


class Numbers(BaseModel):
    numbers: list[int]


@job("isolated.sum", isolation="process")
def add(payload: Numbers, ctx: SyncJobContext) -> dict[str, Any]:
    ctx.log.info("adding", count=len(payload.numbers), self=ctx)
    logging.getLogger("sample").warning("by %s", "logging")
    threading.Thread(target=lambda: logging.getLogger("sample").error("by a thread")).start()
    is_main = threading.current_thread() is threading.main_thread()
    return {"sum": sum(payload.numbers), "pid": os.getpid(), "main": is_main}


@job("isolated.async", isolation="process")
async def add_async(payload: Numbers, ctx: JobContext) -> dict[str, Any]:
    await asyncio.sleep(0)
    await ctx.progress(25, "begun")
    ctx.progress(75)
    return {"sum": sum(payload.numbers), "pid": os.getpid(), "attempt": ctx.attempt}


@job("isolated.services", isolation="process")
def use_services(payload: dict[str, str], ctx: JobContext) -> dict[str, Any]:
    sync: Any = ctx
    before = sync.checkpoint.value
    folder = Path(payload["folder"])
    (folder / "in.txt").write_bytes(b"from a file")
    key = sync.artifacts.put("deep/blob.bin", b"\x00\xff" * 50_000, "image/x-test")
    file_key = sync.artifacts.put_file("file.txt", folder / "in.txt")
    sync.artifacts.get_file(file_key, folder / "out.txt")
    sync.checkpoint.save({"seen": 3})
    try:
        sync.artifacts.get("artifacts/none")
    except ObjectMissing as error:
        missing = type(error).__name__
    return {
        "key": key,
        "round_trip": sync.artifacts.get(key) == b"\x00\xff" * 50_000,
        "file": (folder / "out.txt").read_text(),
        "missing": missing,
        "before": before,
        "checkpoint": sync.checkpoint.value,
    }


@job("isolated.services_async", isolation="process")
async def use_services_async(payload: dict[str, str], ctx: JobContext) -> dict[str, Any]:
    keys = await asyncio.gather(
        *(ctx.artifacts.put(f"{n}.bin", bytes([n]) * 1000) for n in range(20))
    )
    blobs = await asyncio.gather(*(ctx.artifacts.get(key) for key in keys))
    await ctx.checkpoint.save(len(blobs))
    return {"right": [len(set(blob)) == 1 and blob[0] == n for n, blob in enumerate(blobs)]}


@job("isolated.sleep", isolation="process", timeout_seconds=60)
def sleep(payload: dict[str, Any], ctx: SyncJobContext) -> None:
    """Sleep with a grandchild, whose pid is logged, holding on to all that it inherits."""
    grandchild = subprocess.Popen(["sleep", "300"], close_fds=False)
    ctx.log.info("asleep", pid=os.getpid(), grandchild=grandchild.pid)
    if payload.get("hold_the_gil"):
        ctypes.PyDLL(None).sleep(int(payload["seconds"]))
    time.sleep(payload["seconds"])


@job("isolated.die", isolation="process")
def die(payload: dict[str, Any], ctx: SyncJobContext) -> None:  # noqa: C901
    ctx.log.info("last words")
    match payload["how"]:
        case "exit":
            os._exit(payload["code"])
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "signal":
            os.kill(os.getpid(), payload["code"])
        case "kill_with_heir":
            if os.fork() == 0:
                time.sleep(300)
            os.kill(os.getpid(), signal.SIGKILL)
        case "closed_pipe":
            os.closerange(3, 100)
        case "nonsense":
            for descriptor in range(3, 64):
                with suppress(OSError):
                    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                        os.write(descriptor, b"\x00\x00\x00\x02\x00\x00\x00\x00[]")
            time.sleep(300)


@job("isolated.raise", isolation="process")
def fail(payload: dict[str, Any]) -> Any:
    match payload["how"]:
        case "exit":
            sys.exit(payload.get("code", 3))
        case "retry":
            raise Retry("busy", delay_seconds=12)
        case "fail":
            raise Fail("never")
        case "surrogate":
            raise ValueError("half \ud800 and \x00")
        case "nan":
            return float("nan")
        case "large":
            return "x" * 2_000_000
    raise LookupError(payload["how"])


@job("isolated.exit_in_task", isolation="process")
async def exit_in_task(payload: dict[str, Any]) -> None:
    async def leave() -> None:
        sys.exit(5)

    await asyncio.create_task(leave())


@job("isolated.stubborn", isolation="process")
def stubborn(payload: dict[str, Any]) -> str:
    """Return at once, and leave a thread behind that keeps the process from ending."""
    threading.Thread(target=time.sleep, args=(300,)).start()
    return "returned"


@job("isolated.chatty", isolation="process")
def chatty(payload: dict[str, int], ctx: SyncJobContext) -> int:
    for number in range(payload["lines"]):
        ctx.log.info("line", number=number)
        ctx.progress(100 * number / payload["lines"])
    ctx.log.info("huge", blob="x" * (80 * 1024 * 1024))
    return payload["lines"]


@job("isolated.sigterm", isolation="process")
def survive_sigterm(payload: dict[str, Any]) -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    shell = subprocess.run(["sh", "-c", "kill -TERM $$"], check=False)
    return f"survived; subprocess: {shell.returncode}"


@job("isolated.odd_lines", isolation="process")
def log_odd_lines(ctx: SyncJobContext) -> str:
    ctx.log.info("large", number=10**5000)
    ctx.log.info("nested", numbers=[10**5000])
    ctx.log.info(10**5000)  # type: ignore[arg-type]
    return "logged"


@job("isolated.missing_files", isolation="process")
def miss_files(payload: dict[str, str], ctx: SyncJobContext) -> list[str]:
    seen = []
    for path in (payload["missing"], payload["folder"]):
        try:
            ctx.artifacts.put_file("name", path)
        except OSError as error:
            seen.append(f"{type(error).__name__} {error.filename}")
    return seen


@job("isolated.hungry", isolation="process", memory_mib=128)
def take_memory(payload: dict[str, int]) -> int:
    return len(bytearray(payload["mebibytes"] * 1024 * 1024))


@job("isolated.hungry_async", isolation="process", memory_mib=128)
async def take_memory_async(payload: dict[str, int]) -> int:
    kept = []
    for _ in range(payload["mebibytes"]):
        kept.append(bytearray(1024 * 1024))
        await asyncio.sleep(0)
    return len(kept)


@job("isolated.modest", isolation="process", memory_mib=64)
async def take_little(ctx: JobContext) -> str:
    ctx.log.info("a line")
    await ctx.checkpoint.save({"x": "y" * 1000})
    return "enough"
