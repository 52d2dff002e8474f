"""What a run ran on."""

import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from taskflow_bench.report import Machine
from taskflow_testing.own_servers import ServerSet
from taskflow_testing.versions import versions_of

_PACKAGES = (
    "fastapi", "uvicorn", "sqlalchemy", "asyncpg", "psycopg", "aio-pika", "aiormq",
    "celery", "taskiq", "taskiq-aio-pika", "dramatiq", "procrastinate",
)  # fmt: skip
_BYTES_PER_GIB = 1024**3


async def describe(servers: ServerSet) -> Machine:
    """This machine, with servers that run on it."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=processor(Path("/proc/cpuinfo").read_text()) or platform.machine(),
        memory_gib=round(pages * page_bytes / _BYTES_PER_GIB, 1),
        kernel=platform.release(),
        versions=await versions_of(servers),
        packages=dict(_installed()),
    )


def _installed() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        # The gate does without the peers.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def processor(cpuinfo: str) -> str:
    """The model that /proc/cpuinfo names, or nothing."""
    found = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""
