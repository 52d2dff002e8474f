"""The call of a handler: payload in, ending out, whatever it does."""

import inspect
from uuid import UUID

from taskflow.sdk.context import AttemptServices, JobContext, SyncJobContext
from taskflow.sdk.errors import InvalidPayload, JsonTooLarge, NotJson
from taskflow.sdk.job_type import JobType
from taskflow.sdk.json_values import encode_json
from taskflow.values import value_type
from taskflow_consumer.isolation.ending import Ending, Raised, Returned, raised, refused
from taskflow_consumer.isolation.memory_limit import MemoryLimit


@value_type
class Call:
    """A handler's call, ready to be made."""

    job_type: JobType
    job_id: UUID
    attempt: int
    payload_json: str
    checkpoint_json: str | None
    services: AttemptServices
    result_max_bytes: int
    memory_limit: MemoryLimit | None = None

    async def run(self) -> Ending:
        """Call an `async def` handler."""
        try:
            context = JobContext(self.job_id, self.attempt, self.services, self.checkpoint_json)
            arguments = self.job_type.arguments(self.payload_json, context)
            return self._returned(await self.job_type.handler(*arguments))
        except InvalidPayload as error:
            return refused("invalid_payload", str(error))
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a job must not end us
            return self._raised(error)

    def run_blocking(self) -> Ending:
        """Call a `def` handler."""
        try:
            context = SyncJobContext(self.job_id, self.attempt, self.services, self.checkpoint_json)
            arguments = self.job_type.arguments(self.payload_json, context)
            return self._returned(self.job_type.handler(*arguments))
        except InvalidPayload as error:
            return refused("invalid_payload", str(error))
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a job must not end us
            return self._raised(error)

    def _raised(self, error: BaseException) -> Raised:
        if self.memory_limit is None or not isinstance(error, MemoryError):
            return raised(error)
        self.memory_limit.lift()
        # For good: the same payload needs the same memory again.
        told = refused(
            "memory_limit",
            f"The job needs more than the {self.memory_limit.mebibytes} MiB of memory that its type"
            " allows (memory_mib).",
        )
        return Raised(told.error, traceback=raised(error).traceback)

    def _returned(self, value: object) -> Raised | Returned:
        if inspect.iscoroutine(value):
            value.close()
            return refused(
                "result_not_json",
                "The handler returned a coroutine: it looks like a 'def' around an 'async def'.",
            )
        try:
            return Returned(encode_json(value, max_bytes=self.result_max_bytes))
        except JsonTooLarge as error:
            return refused("result_too_large", f"The handler's result can't be stored: {error}.")
        except NotJson as error:
            return refused("result_not_json", f"The handler's result can't be stored: {error}.")
