"""A consumer ends in peace after so many jobs, or when it has grown too large: leaks are bounded.

Its supervisor starts another one. Jobs are drained as on SIGTERM, so none loses an attempt.
"""

import asyncio
import os
from pathlib import Path

import structlog

from taskflow.errors import ConfigurationError
from taskflow_consumer.executor import Executor
from taskflow_consumer.shutdown import Shutdown

LOOK_SECONDS = 0.5
MEBIBYTE = 1024 * 1024

_STATM = Path("/proc/self/statm")
log = structlog.get_logger(__name__)


class Renewal:
    """Looks at the executor and the memory, and asks for the end when a limit is reached.

    `max_jobs` attempts begun, `max_memory_mib` resident; 0: no limit.

    Raises:
        ConfigurationError: the memory is limited, and this system doesn't tell it, or it is more
            already, so that each new process would end as soon as it began.
    """

    def __init__(self, executor: Executor, *, max_jobs: int, max_memory_mib: int) -> None:
        if max_memory_mib:
            _require_room(max_memory_mib)
        self._executor = executor
        self._max_jobs = max_jobs
        self._max_memory_mib = max_memory_mib

    async def watch(self, shutdown: Shutdown) -> None:
        """Return when the end was asked for; never without a limit."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._is_due():
                return shutdown.renew()

    def _is_due(self) -> bool:
        jobs, memory_mib = self._executor.started, 0
        if self._max_memory_mib:
            memory_mib = resident_mib()
        many = 0 < self._max_jobs <= jobs
        large = 0 < self._max_memory_mib <= memory_mib
        if many or large:
            log.info("consumer_renews_itself", jobs=jobs, memory_mib=memory_mib)
        return many or large


def _require_room(max_memory_mib: int) -> None:
    if not _STATM.exists():
        raise ConfigurationError("TASKFLOW_MAX_MEMORY_MIB needs a system with /proc")
    at_first = resident_mib()
    if at_first >= max_memory_mib:
        raise ConfigurationError(
            f"TASKFLOW_MAX_MEMORY_MIB={max_memory_mib} leaves no room for jobs: a consumer with"
            f" these handlers begins with {at_first} MiB"
        )


def resident_mib() -> int:
    """This process's memory, without that of its children."""
    pages = int(_STATM.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // MEBIBYTE
