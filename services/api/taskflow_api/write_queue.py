"""New jobs that wait for their turn at PostgreSQL, from single requests and from batches."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from taskflow.batching import Batcher, BatcherClosed
from taskflow.errors import ServiceUnavailable, TaskFlowError
from taskflow.jobs.new_job import NewJob, Submission
from taskflow.jobs.submission_answers import Answer

MAX_WRITE_BYTES = 4 * 1024 * 1024
WAITING_WRITES = 10
"""How many full writes may wait; what comes beyond them is refused, which bounds the memory."""

BATCHES_AT_ONCE = 2
"""Of how many clients' batches jobs wait at once, each with as many as the writers take in one go:
so that there is always room for single ones, and clients with batches take turns."""

Weighed = tuple[NewJob, int]
"""A job, and the bytes of its request."""


class WriteQueue:
    """Hands jobs to `write`, many at once, and each its answer to who sent it.

    It is alive while it writes, whoever has gone meanwhile.
    """

    def __init__(
        self,
        write: Callable[[Sequence[NewJob]], Awaitable[Sequence[Answer]]],
        *,
        jobs_at_once: int,
        writers: int,
    ) -> None:
        """`jobs_at_once` bounds one call of `write`, `writers` how many calls there are at once."""
        self._write = write
        self._batcher: Batcher[Weighed, Answer] = Batcher(
            self._write_weighed,
            max_items=jobs_at_once,
            max_size=MAX_WRITE_BYTES,
            size_of=lambda weighed: weighed[1],
            writers=writers,
            max_waiting=jobs_at_once * WAITING_WRITES,
            skip_cancelled=True,
        )
        self._part = jobs_at_once * writers
        self.turns = asyncio.Semaphore(BATCHES_AT_ONCE)
        """Of whole batches."""

    async def submit(self, job: NewJob, *, size_bytes: int) -> Answer:
        """The answer to a job of a request of so many bytes.

        Raises:
            ServiceUnavailable: too many wait, or PostgreSQL is away.
            BatcherClosed: the queue is closed.
        """
        return await self._batcher.submit((job, size_bytes))

    async def submit_each(
        self, jobs: Sequence[NewJob], answers: dict[UUID, Answer], *, size_bytes: int
    ) -> None:
        """Put the answer to each of a batch's jobs into `answers`, as soon as it is there.

        A refusal is an answer too, and so is ServiceUnavailable. `size_bytes`: of each job.
        """
        for start in range(0, len(jobs), self._part):
            part = jobs[start : start + self._part]
            answers |= await self._submit_part(part, size_bytes)

    async def close(self) -> None:
        """Take nothing more, and return when everything that was taken is answered."""
        await self._batcher.close()

    async def _write_weighed(self, weighed: Sequence[Weighed]) -> Sequence[Answer]:
        return await self._write([job for job, _ in weighed])

    async def _submit_part(self, part: Sequence[NewJob], size_bytes: int) -> dict[UUID, Answer]:
        said: Sequence[Answer | BaseException]
        try:
            async with self.turns:
                said = await self._batcher.submit_many([(job, size_bytes) for job in part])
        except (ServiceUnavailable, BatcherClosed) as error:
            said = [error] * len(part)
        return {job.id: _answer_of(each) for job, each in zip(part, said, strict=True)}


def _answer_of(said: Answer | BaseException) -> Answer:
    if isinstance(said, BatcherClosed):
        return ServiceUnavailable("The service", "it is stopping")
    if isinstance(said, Submission | TaskFlowError):
        return said
    raise said
