"""What the API knows of job types: their defaults, and whether a payload fits their schema."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any, Protocol
from uuid import UUID

import jsonschema_rs
import structlog

from taskflow.errors import InvalidContent, ServiceUnavailable, UnknownJobType
from taskflow.jobs.queries import get_job_type
from taskflow.jobs.views import Row
from taskflow_api.database_access import Reads
from taskflow_api.joined_reads import JoinedReads
from taskflow_api.problems import pointer_to
from taskflow_api.secret_fields import NO_SECRETS, SecretFields

FRESH_SECONDS = 5.0
"""For how long a type is believed to be as it was."""

RECHECK_SECONDS = 1.0
"""A payload is refused by nothing older: the type may just have been registered anew."""

LOOK_SECONDS = 1.0
"""How long is waited for a look at a type that is known, but not fresh."""

MAX_ERRORS = 20
_MAX_DETAIL_CHARACTERS = 300
_BACKTRACK_LIMIT = 100_000

log = structlog.get_logger(__name__)


class Validator(Protocol):
    """What is used of a compiled schema."""

    def iter_errors(self, instance: Any) -> Iterable[jsonschema_rs.ValidationError]:
        """Every way in which `instance` doesn't fit."""


@dataclass(frozen=True, slots=True)
class KnownJobType:
    """A registered job type; the limits are the defaults of its jobs."""

    name: str
    queue: str
    max_attempts: int
    timeout_seconds: float | None
    updated_at: datetime
    validator: Validator | None
    secrets: SecretFields
    read_at: float
    """When it was read, by `time.monotonic()`."""

    def problems_of(self, payload: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Where a payload doesn't fit the schema: (JSON pointer into the body, detail)."""
        errors = () if self.validator is None else self.validator.iter_errors(payload)
        said = chain(self.secrets.problems_of(payload), chain.from_iterable(map(_said, errors)))
        return list(islice(said, MAX_ERRORS))


class JobTypes:
    """The registered job types, remembered for a moment; one look at a time for each."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._known: dict[str, KnownJobType] = {}
        self._looks: dict[str, asyncio.Task[KnownJobType]] = {}
        self._schemas = JoinedReads(self._read_schema)

    async def check(self, tenant_id: UUID, name: str, payload: Mapping[str, Any]) -> KnownJobType:
        """The job type, once the payload is found to fit it.

        Raises:
            UnknownJobType: nothing has ever registered it.
            InvalidContent: the payload doesn't fit.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        known = await self.get(tenant_id, name)
        problems = known.problems_of(payload)
        if problems and _age(known) > RECHECK_SECONDS:
            known = await self._look(tenant_id, name)
            problems = known.problems_of(payload)
        if problems:
            raise InvalidContent(f"The payload doesn't fit the schema of {name!r}.", problems)
        return known

    async def get(self, tenant_id: UUID, name: str) -> KnownJobType:
        """The job type; one that is known already also while PostgreSQL is away.

        Raises:
            UnknownJobType: nothing has ever registered it, as of now.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        known = self._known.get(name)
        if known is None:
            return await self._look(tenant_id, name)
        if _age(known) <= FRESH_SECONDS:
            return known
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await self._look(tenant_id, name)
        except (TimeoutError, ServiceUnavailable):
            # A submission has patience of its own, which an end here would leave it no use of.
            return known

    async def secrets_of(self, tenant_id: UUID, name: str) -> SecretFields:
        """What the payloads of a job type don't show.

        Raises:
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        try:
            return (await self.get(tenant_id, name)).secrets
        except UnknownJobType:
            return NO_SECRETS

    async def schema_of(self, tenant_id: UUID, name: str) -> Mapping[str, Any]:
        """The schema of a job type's payload as it is now.

        Raises:
            UnknownJobType: nothing has ever registered it.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        return await self._schemas.get((tenant_id, name))

    async def _read_schema(self, wanted: tuple[UUID, str]) -> Mapping[str, Any]:
        tenant_id, name = wanted
        row = await self._row_of(tenant_id, name)
        schema: Mapping[str, Any] = row["schema"]
        return schema

    async def _row_of(self, tenant_id: UUID, name: str) -> Row:
        # They belong to nobody, so the answer to one tenant is the answer to all.
        async with self._reads.connection(tenant_id) as connection:
            row = await get_job_type(connection, name)
        if row is None:
            self._known.pop(name, None)
            raise UnknownJobType(name)
        return row

    async def _look(self, tenant_id: UUID, name: str) -> KnownJobType:
        look = self._looks.get(name)
        if look is None:
            look = asyncio.create_task(
                self._read(tenant_id, name), name="look-at-job-type", context=Context()
            )
            self._looks[name] = look
            look.add_done_callback(lambda done: self._end_look(name, done))
        # Others wait for it too, so the end of one caller must not end it.
        return await asyncio.shield(look)

    def _end_look(self, name: str, look: "asyncio.Task[KnownJobType]") -> None:
        del self._looks[name]
        if not look.cancelled():
            look.exception()  # Marks it as seen where every caller has gone.

    async def _read(self, tenant_id: UUID, name: str) -> KnownJobType:
        row = await self._row_of(tenant_id, name)
        before = self._known.get(name)
        if before is not None and before.updated_at == row["updated_at"]:
            validator, secrets = before.validator, before.secrets
        else:
            validator, secrets = _compile(name, row["schema"]), SecretFields(row["schema"])
        known = KnownJobType(
            name=name,
            queue=row["queue"],
            max_attempts=row["max_attempts"],
            timeout_seconds=row["timeout_seconds"],
            updated_at=row["updated_at"],
            validator=validator,
            secrets=secrets,
            read_at=time.monotonic(),
        )
        self._known[name] = known
        return known


def _age(known: KnownJobType) -> float:
    return time.monotonic() - known.read_at


def _said(error: jsonschema_rs.ValidationError) -> Iterator[tuple[str, str]]:
    """An error at the very member that it is about."""
    place = ("payload", *error.instance_path)
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        yield pointer_to(*place, kind.property), "is required"
    elif isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        for name in kind.unexpected:
            yield pointer_to(*place, name), "is not a known member"
    else:
        yield pointer_to(*place), error.message[:_MAX_DETAIL_CHARACTERS]


def _compile(name: str, schema: dict[str, Any]) -> Validator | None:
    """The schema's validator; None if it can't be used: then the consumer judges alone."""
    try:
        return jsonschema_rs.validator_for(
            json.dumps(schema),
            # A schema comes from a consumer: it makes the API fetch nothing, and no pattern of
            # it can hold the process for long.
            offline=True,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACK_LIMIT),
            mask="the value",
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        log.error("payload_schema_unusable", job_type=name, error=str(error)[:500])  # noqa: TRY400
        return None
