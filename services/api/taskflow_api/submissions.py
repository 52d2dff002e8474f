"""Submissions on their way into PostgreSQL: many in one statement, again while it is away."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg
import structlog

from taskflow.batching import BatcherClosed
from taskflow.db.pool import Connection, IntakeDatabase, TenantDatabase
from taskflow.errors import IdempotencyKeyReused, ServiceUnavailable, TaskFlowError
from taskflow.jobs.joint_submission import have_anothers, submit_together
from taskflow.jobs.lanes import Lane
from taskflow.jobs.linked_submission import submit_linked
from taskflow.jobs.new_job import Idempotency, NewJob, Submission
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.quotas import DefaultQuotas
from taskflow.jobs.submission import submit
from taskflow.jobs.submission_answers import Answer, find_answer, find_answers
from taskflow.relay import Dispatch, Relay
from taskflow_api.late_commits import LateCommits
from taskflow_api.persistence import SERVICE, Connect, persist
from taskflow_api.write_queue import WriteQueue

ANSWER_SECONDS = 10.0
"""How long a caller waits in all, for its turn and for the commit."""

WRITERS = 2
LINKED_AT_ONCE = 100
"""Of one tenant. With what the writers take it is what may be on its way into PostgreSQL at one
moment, beside which a tenant far from its quota is judged."""

_UNANSWERED: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.InternalClientError,
    asyncpg.PostgresConnectionError,
)
"""After these PostgreSQL may still commit what it was sent; its own errors say that it doesn't.

What an earlier statement of the same batch has committed is left to the sweep of lost pointers: to
look after each refusal of a full disk would crowd out what is truly in doubt."""

Written = TypeVar("Written")
Answered = TypeVar("Answered", bound=Answer)

log = structlog.get_logger(__name__)


class Submissions:
    """Takes new jobs, answers once they are committed, and has their pointers published."""

    def __init__(
        self,
        intake: IntakeDatabase,
        database: TenantDatabase,
        relay: Relay,
        late_commits: LateCommits,
        *,
        batch_size: int,
        quotas: DefaultQuotas,
    ) -> None:
        self._intake = intake
        self._database = database
        self._relay = relay
        self._late_commits = late_commits
        self._quotas = quotas
        self._batch_size = batch_size
        self._plain = WriteQueue(self._write_plain, jobs_at_once=batch_size, writers=WRITERS)
        # Each tenant's own: what its jobs wait for is its own affair. Once nobody is in it the
        # collector of garbage may have it.
        self._linked: WeakValueDictionary[UUID, WriteQueue] = WeakValueDictionary()
        self._is_closing = False
        self._together: set[asyncio.Task[Any]] = set()

    async def submit(self, job: NewJob, *, size_bytes: int) -> Submission:
        """Commit a job, or find what it was committed as before; `size_bytes`: its request's.

        Raises:
            TaskFlowError: it is refused.
            ServiceUnavailable: PostgreSQL doesn't answer in time; the job may be committed.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                queue = self._linked_of(job.tenant_id) if job.is_linked else self._plain
                answer = await queue.submit(job, size_bytes=size_bytes)
        except TimeoutError as error:
            raise ServiceUnavailable(SERVICE, "the commit takes too long") from error
        except BatcherClosed as error:
            raise _stopping() from error
        return _accepted(answer)

    async def submit_each(self, jobs: Sequence[NewJob], *, size_bytes: int) -> list[Answer]:
        """As `submit` for each of them by itself: an answer for each, in their order.

        They are of one tenant. A refusal is an answer too; so is ServiceUnavailable, after which
        that job may be committed. `size_bytes`: of the request for them all.

        Raises:
            ServiceUnavailable: the service is stopping; none is committed.
        """
        answers: dict[UUID, Answer] = {}
        plain = [job for job in jobs if not job.is_linked]
        linked = [job for job in jobs if job.is_linked]
        linked_queue = self._linked_of(linked[0].tenant_id) if linked else None
        each_bytes = size_bytes // len(jobs) if jobs else 0
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._plain.submit_each(plain, answers, size_bytes=each_bytes)
                if linked_queue is not None:
                    await linked_queue.submit_each(linked, answers, size_bytes=each_bytes)
        except TimeoutError:
            log.warning("batch_cut_short", jobs=len(jobs), answered=len(answers))
        late = ServiceUnavailable(SERVICE, "the commit takes too long")
        return [answers.get(job.id, late) for job in jobs]

    async def submit_together(self, jobs: Sequence[NewJob]) -> list[Submission]:
        """Commit jobs of one tenant in one transaction, or none; an answer for each, in order.

        Raises:
            NotAllAccepted: some are refused.
            InvalidContent: PostgreSQL can't store one of them.
            ServiceUnavailable: PostgreSQL doesn't answer in time; they may all be committed.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._plain.turns:
                return await self._by_itself(self._write_together(jobs))
        except TimeoutError as error:
            raise ServiceUnavailable(SERVICE, "the commit takes too long") from error

    async def find(self, job: NewJob) -> Submission | None:
        """What this job's idempotency key was answered with before, or None.

        Raises:
            IdempotencyKeyReused: the key belongs to another request.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        answer = await persist(
            self._of(job.tenant_id), lambda connection: find_answer(connection, job)
        )
        return None if answer is None else _accepted(answer)

    async def find_each(
        self, tenant_id: UUID, jobs: Sequence[NewJob], keys: Sequence[Idempotency]
    ) -> dict[UUID, Answer]:
        """What the keys of one request's jobs were answered with before, by the jobs' ids.

        `keys` are the request's whole set, also those for which it has no job.

        Raises:
            IdempotencyKeyReused: one of `keys` belongs to another request.
            ServiceUnavailable: PostgreSQL can't be asked.
        """

        async def find(connection: Connection) -> dict[UUID, Answer]:
            if await have_anothers(connection, tenant_id, keys):
                raise IdempotencyKeyReused("The Idempotency-Key was used for another request.")
            return await find_answers(connection, jobs)

        return await persist(self._of(tenant_id), find)

    async def close(self) -> None:
        """Take nothing more, and return when everything that was taken is committed."""
        self._is_closing = True
        try:
            queues = (self._plain, *self._linked.values())
            await asyncio.gather(*(queue.close() for queue in queues))
            await asyncio.gather(*self._together, return_exceptions=True)
        finally:
            await self._late_commits.close()

    def _linked_of(self, tenant_id: UUID) -> WriteQueue:
        if self._is_closing:
            raise _stopping()
        queue = self._linked.get(tenant_id)
        if queue is None:
            # One writer, so that they are committed in the order in which they came.
            at_once = min(LINKED_AT_ONCE, self._batch_size)
            queue = WriteQueue(self._write_linked, jobs_at_once=at_once, writers=1)
            self._linked[tenant_id] = queue
        return queue

    async def _write_plain(self, jobs: Sequence[NewJob]) -> Sequence[Answer]:
        def write(connection: Connection) -> Awaitable[list[Answer]]:
            return submit(connection, jobs, with_pointers=self._relay.ready, quotas=self._quotas)

        tenants = {job.tenant_id for job in jobs}
        return await self._commit(jobs, lambda: self._intake.connection(tenants), write)

    async def _write_linked(self, jobs: Sequence[NewJob]) -> Sequence[Answer]:
        answers: dict[UUID, Answer] = {}

        def write(connection: Connection) -> Awaitable[None]:
            return submit_linked(
                connection, jobs, answers, with_pointers=self._relay.ready, quotas=self._quotas
            )

        in_doubt = False
        try:
            _, in_doubt = await self._persist(jobs, self._of(jobs[0].tenant_id), write)
        except ServiceUnavailable as error:
            # Of those that have no answer: others were committed before.
            answers = dict.fromkeys((job.id for job in jobs), error) | answers
        finally:
            self._publish(jobs, [answers.get(job.id) for job in jobs])
        held = [job_id for job_id, said in answers.items() if isinstance(said, ServiceUnavailable)]
        if held:
            log.warning("linked_jobs_unavailable", jobs=len(held), error=str(answers[held[0]]))
        if held and in_doubt:
            # They may wait for what an earlier try of theirs has written, and is committing yet.
            self._late_commits.watch(held)
        return [answers[job.id] for job in jobs]

    def _of(self, tenant_id: UUID) -> Connect:
        return lambda: self._database.connection(tenant_id)

    async def _by_itself(self, writing: Coroutine[Any, Any, Written]) -> Written:
        # In a task of its own, so that a caller who leaves can't cut the commit from its pointer.
        task = asyncio.create_task(writing, name="submit-together")
        self._together.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._together.discard(task)
        if not task.cancelled():
            task.exception()  # Marks it as seen where the caller has gone.

    async def _write_together(self, jobs: Sequence[NewJob]) -> list[Submission]:
        def write(connection: Connection) -> Awaitable[list[Submission]]:
            return submit_together(
                connection, jobs, with_pointers=self._relay.ready, quotas=self._quotas
            )

        return await self._commit(jobs, self._of(jobs[0].tenant_id), write)

    async def _commit(
        self,
        jobs: Sequence[NewJob],
        connect: Connect,
        write: Callable[[Connection], Awaitable[list[Answered]]],
    ) -> list[Answered]:
        """Write these jobs and have their pointers published, also those committed too late."""
        answers, _ = await self._persist(jobs, connect, write)
        self._publish(jobs, answers)
        return answers

    async def _persist(
        self,
        jobs: Sequence[NewJob],
        connect: Connect,
        write: Callable[[Connection], Awaitable[Written]],
    ) -> tuple[Written, bool]:
        """What `write` comes to, and whether an earlier try may be committed yet."""
        in_doubt = False

        async def send(connection: Connection) -> Written:
            nonlocal in_doubt
            try:
                return await write(connection)
            except _UNANSWERED:
                in_doubt = True
                raise

        try:
            return await persist(connect, send), in_doubt
        except ServiceUnavailable:
            if in_doubt:
                self._late_commits.watch(job.id for job in jobs)
            raise

    def _publish(self, jobs: Sequence[NewJob], answers: Sequence[Answer | None]) -> None:
        self._relay.send(
            Dispatch(
                Pointer(answer.job_id, Lane(job.queue, job.priority), job.type, answer.pointer_at)
            )
            for job, answer in zip(jobs, answers, strict=True)
            if isinstance(answer, Submission) and answer.pointer_at is not None
        )


def _stopping() -> ServiceUnavailable:
    return ServiceUnavailable("The service", "it is stopping")


def _accepted(answer: Answer) -> Submission:
    if isinstance(answer, TaskFlowError):
        raise answer
    return answer
