"""What a client is told of a submission: a status, and the job's JSON."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from pydantic_core import to_json

from taskflow.errors import JobNotFound
from taskflow.jobs.new_job import NewJob, Submission
from taskflow.jobs.views import accepted_members
from taskflow.values import value_type
from taskflow_api.job_documents import job_document
from taskflow_api.job_rows import ROWS_AT_ONCE, JobRow, JobRows
from taskflow_api.lifespan import Resources
from taskflow_api.secret_fields import SecretFields


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
    resources: Resources, submission: Submission, twin: JobRow
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
    """The live jobs that a batch's submissions were deduplicated to.

    Small ones are read ahead, in the order in which they are first asked for, and singly later on.
    """

    def __init__(self, rows: JobRows, tenant_id: UUID, submissions: Sequence[Submission]) -> None:
        self._rows = rows
        self._tenant_id = tenant_id
        twins = dict.fromkeys(each.job_id for each in submissions if each.is_deduplicated)
        self._order = list(twins)
        self._place = {job_id: place for place, job_id in enumerate(self._order)}
        self._ahead: Mapping[UUID, JobRow] = {}
        self._next = 0
        """What stands before it has been looked for."""
        self._alone: Mapping[UUID, JobRow] = {}
        """The last one that was not found ahead."""
        self._missing: set[UUID] = set()

    async def row_for(self, submission: Submission) -> JobRow:
        """The row of one of them.

        Raises:
            JobNotFound: it was deleted since.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        job_id = submission.job_id
        place = self._place[job_id]
        if place >= self._next:
            ahead = self._order[place : place + ROWS_AT_ONCE]
            self._ahead = await self._rows.read_small(self._tenant_id, ahead)
            self._next = place + len(ahead)
        return self._ahead.get(job_id) or self._alone.get(job_id) or await self._read_alone(job_id)

    async def _read_alone(self, job_id: UUID) -> JobRow:
        if job_id in self._missing:
            raise JobNotFound(job_id)
        try:
            row = await self._rows.read_alone(self._tenant_id, job_id)
        except JobNotFound:
            self._missing.add(job_id)
            raise
        self._alone = {job_id: row}
        return row
