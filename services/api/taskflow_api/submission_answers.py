"""What a client is told of a submission: a status, and the job's JSON."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from taskflow.errors import JobNotFound
from taskflow.jobs import queries
from taskflow.jobs.new_job import NewJob, Submission
from taskflow.jobs.views import accepted_members
from taskflow.values import value_type
from taskflow_api.job_documents import job_document
from taskflow_api.lifespan import Resources
from taskflow_api.secret_fields import SecretFields

TwinRow = Mapping[Any, Any]
"""A row of `jobs`: of the one that a submission was deduplicated to."""

TWINS_AT_ONCE = 50
TWINS_BYTES_AT_ONCE = 64 * 1024
"""A batch's live jobs are read so many at once, of so many bytes together unless one has more: each
may be as large as a whole request, and takes a multiple of that in memory."""


@value_type
class SubmissionAnswer:
    """A status, and the job's JSON."""

    status_code: int
    content: bytes
    is_replayed: bool


def answer_with_job(job: NewJob, submission: Submission, secrets: SecretFields) -> SubmissionAnswer:
    """The answer to who has sent this job, which is (or was before) accepted as it is."""
    payload = secrets.payload_shown(job.payload)
    content = to_json(accepted_members(job, submission, payload=payload))
    return SubmissionAnswer(202, content, submission.is_replayed)


async def answer_with_twin(
    resources: Resources, submission: Submission, twin: TwinRow
) -> SubmissionAnswer:
    """The answer to who has sent a job of which there is one alive: that one, by its row.

    Raises:
        ServiceUnavailable: the key that opens it isn't there (PayloadKeyMissing).
    """
    # It may be of another type.
    secrets = await resources.job_types.secrets_of(twin["tenant_id"], twin["type"])
    document = job_document(twin, secrets, resources.ring, deduplicated=True)
    return SubmissionAnswer(200, document.content, submission.is_replayed)


class Twins:
    """The live jobs that a batch's submissions were deduplicated to, read in their order."""

    def __init__(
        self, resources: Resources, tenant_id: UUID, submissions: Sequence[Submission]
    ) -> None:
        self._resources = resources
        self._tenant_id = tenant_id
        twins = dict.fromkeys(each.job_id for each in submissions if each.is_deduplicated)
        self._place = {job_id: place for place, job_id in enumerate(twins)}
        self._order = list(twins)
        self._sizes: Mapping[UUID, int] | None = None
        self._rows: Mapping[UUID, TwinRow] = {}

    async def row_for(self, submission: Submission) -> TwinRow:
        """The row of one of them.

        Raises:
            JobNotFound: it was deleted since.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        row = self._rows.get(submission.job_id)
        if row is None:
            self._rows = await self._read_from(self._place[submission.job_id])
            row = self._rows.get(submission.job_id)
        if row is None:
            raise JobNotFound(submission.job_id)
        return row

    async def _read_from(self, place: int) -> Mapping[UUID, TwinRow]:
        async with self._resources.reads.connection(self._tenant_id) as connection:
            if self._sizes is None:
                self._sizes = await queries.job_sizes(connection, self._tenant_id, self._order)
            chosen: list[UUID] = []
            size = 0
            for job_id in self._order[place : place + TWINS_AT_ONCE]:
                size += self._sizes.get(job_id, 0)
                if chosen and size > TWINS_BYTES_AT_ONCE:
                    break
                chosen.append(job_id)
            return await queries.get_jobs(connection, self._tenant_id, chosen)
