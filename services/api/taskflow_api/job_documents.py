"""A job as an answer: its JSON, its version, and what a reader needs beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from starlette.responses import Response

from taskflow.errors import ObjectMissing
from taskflow.jobs.opening import opened_job
from taskflow.jobs.schemas import JobView
from taskflow.jobs.views import Row, job_view
from taskflow.sealing.ring import Part, Place, SealingKeyRing
from taskflow_api.etags import etag
from taskflow_api.job_rows import JobRows
from taskflow_api.job_types import JobTypes
from taskflow_api.joined_reads import JoinedReads
from taskflow_api.results import Results
from taskflow_api.secret_fields import SecretFields

MEDIA_TYPE = "application/json"
_CACHING = {"Cache-Control": "private, no-cache"}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobDocument:
    """A job's JSON and the strong entity tag of it."""

    row: Row
    view: JobView
    content: bytes
    etag: str

    def response(
        self, status_code: int = 200, *, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The answer that shows the job."""
        return Response(
            self.content,
            status_code,
            {"ETag": self.etag, **_CACHING, **(headers or {})},
            MEDIA_TYPE,
        )

    def unchanged(self, headers: Mapping[str, str]) -> Response:
        """The answer for who has it already."""
        return Response(status_code=304, headers={"ETag": self.etag, **_CACHING, **headers})


def job_document(
    row: Mapping[Any, Any],
    secrets: SecretFields,
    ring: SealingKeyRing,
    *,
    deduplicated: bool = False,
) -> JobDocument:
    """A row of `jobs` as a document; a result that lies in the object store is left out.

    Raises:
        PayloadKeyMissing: the key that opens it isn't there.
    """
    view = secrets.shown(job_view(opened_job(ring, row), deduplicated=deduplicated))
    content = dump(view)
    # An object is never changed, so that its key stands for the result.
    represented = content + (row["result_object"] or "").encode()
    return JobDocument(row, view, content, etag(row["updated_at"], represented))


async def with_result(document: JobDocument, results: Results, ring: SealingKeyRing) -> JobDocument:
    """The document with its result, wherever that lies.

    Raises:
        ServiceUnavailable: it lies in the object storage, which is away or slow; or
            PayloadKeyMissing.
    """
    key = document.row["result_object"]
    if key is None:
        return document
    try:
        stored = await results.read(document.row["tenant_id"], key)
    except ObjectMissing:
        # The job is still there to be read, and no other answer would be any better tomorrow.
        log.error("result_object_missing", object_key=key)  # noqa: TRY400
        return document
    place = Place(document.row["tenant_id"], document.row["id"], Part.RESULT)
    result = ring.open_object(place, stored)
    # The result may be large: it is put in as it is, not parsed and written again.
    head = dump(document.view, exclude={"result"})
    content = b"".join((head[:-1], b',"result":', result, b"}"))
    return JobDocument(document.row, document.view, content, document.etag)


class JobDocuments:
    """Jobs as they are now; requests for one job at once share a look at its row.

    Only the row can tell that a job was retried or deleted, so that every answer begins with it.
    """

    def __init__(self, rows: JobRows, job_types: JobTypes, ring: SealingKeyRing) -> None:
        self._rows = rows
        self._job_types = job_types
        self._ring = ring
        self._documents = JoinedReads(self._read)

    async def read(self, tenant_id: UUID, job_id: UUID) -> JobDocument:
        """A tenant's job.

        Raises:
            JobNotFound: this tenant has no such job.
            ServiceUnavailable: PostgreSQL can't be asked; or PayloadKeyMissing.
        """
        return await self._documents.get((tenant_id, job_id))

    async def _read(self, wanted: tuple[UUID, UUID]) -> JobDocument:
        tenant_id, job_id = wanted
        row = await self._rows.read(tenant_id, job_id)
        secrets = await self._job_types.secrets_of(tenant_id, row["type"])
        return job_document(row, secrets, self._ring)


def dump(view: JobView, *, exclude: set[str] | None = None) -> bytes:
    """A job's JSON."""
    return view.model_dump_json(exclude=exclude).encode()
