"""All that an attempt passes through, from its claim to its outcome."""

from structlog.typing import FilteringBoundLogger

from taskflow.sdk.registry import Registry
from taskflow.sealing.ring import SealingKeyRing
from taskflow_consumer.isolation.handler_call import HandlerCall
from taskflow_consumer.isolation.processes import Processes
from taskflow_consumer.middleware.cancellation import Cancellation
from taskflow_consumer.middleware.chain import Step, fold
from taskflow_consumer.middleware.large_results import LargeResults
from taskflow_consumer.middleware.log_capture import log_capture
from taskflow_consumer.middleware.sealing import Sealing
from taskflow_consumer.middleware.service_log import ServiceLog
from taskflow_consumer.middleware.timeout import Timeout
from taskflow_consumer.ports import Artifacts, Leases

HANG_AFTER_SECONDS = 10.0
"""How long past its time-out a handler may block this process before that is taken for a hang."""


class HandlerChain:
    """The handlers' calls, with the middleware around them; `run` is the whole of it.

    `stop_grace_seconds`: what a handler gets to clean up when it is told to stop.
    `result_patience_seconds`: how long a large result waits for the object store.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        leases: Leases,
        artifacts: Artifacts,
        ring: SealingKeyRing,
        log: FilteringBoundLogger,
        result_inline_bytes: int,
        result_max_bytes: int,
        stop_grace_seconds: float = 3.0,
        result_patience_seconds: float = 60.0,
    ) -> None:
        self._isolated_modules = _isolated_modules(registry)
        self._processes = Processes(self._isolated_modules)
        large_results = LargeResults(
            artifacts,
            ring,
            inline_bytes=result_inline_bytes,
            patience_seconds=result_patience_seconds,
        )
        self.run: Step = fold(
            [
                ServiceLog(log),
                Sealing(ring),
                log_capture,
                large_results,
                Timeout(leases, stop_grace_seconds + HANG_AFTER_SECONDS),
                Cancellation(stop_grace_seconds),
            ],
            HandlerCall(registry, self._processes, result_max_bytes),
        )

    async def warm_up(self) -> None:
        """Prepare what makes the first isolated job quick, if there are such jobs."""
        if self._isolated_modules:
            await self._processes.warm_up()


def _isolated_modules(registry: Registry) -> list[str]:
    isolated = [job_type.name for job_type in registry if job_type.isolation == "process"]
    return sorted({registry.module_of(name) for name in isolated})
