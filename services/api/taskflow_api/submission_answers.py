"""What a client is told of a submission: a status, and the job's JSON."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from pydantic_core import to_json

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
    """The live jobs that a batch's submissions were deduplicated to, read in their order."""

    def __init__(self, rows: JobRows, tenant_id: UUID, submissions: Sequence[Submission]) -> None:
        self._rows = rows
        self._tenant_id = tenant_id
        twins = dict.fromkeys(each.job_id for each in submissions if each.is_deduplicated)
        self._order = list(twins)
        self._place = {job_id: place for place, job_id in enumerate(self._order)}
        self._ahead: Mapping[UUID, JobRow] = {}
        self._looked_for: Collection[UUID] = ()

    async def row_for(self, submission: Submission) -> JobRow:
        """The row of one of them.

        Raises:
            JobNotFound: it was deleted since.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        job_id = submission.job_id
        if job_id not in self._looked_for:
            place = self._place[job_id]
            ahead = self._order[place : place + ROWS_AT_ONCE]
            self._ahead = await self._rows.read_small(self._tenant_id, ahead)
            self._looked_for = set(ahead)
        row = self._ahead.get(job_id)
        return row or await self._rows.read(self._tenant_id, job_id)
