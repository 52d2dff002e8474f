"""A log shipper on real servers that go away and come back, and what is stored by it."""

import json
import re
from typing import Any

from uuid_utils.compat import uuid7

from taskflow.db.pool import Database
from taskflow.errors import ObjectMissing, ServiceUnavailable
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.log_index import LogChunk, list_chunks
from taskflow.object_store import ObjectStore
from taskflow.sdk.context import AttemptLog
from taskflow_consumer.log_shipper import LogShipper
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

NEVER = 3600.0


class Setup:
    """A shipper, the servers it uses through proxies, and the same servers without."""

    def __init__(
        self, jobs: Jobs, store: ObjectStore, s3_proxy: TcpProxy, database_proxy: TcpProxy
    ) -> None:
        self.jobs = jobs
        self.store = store
        self.s3 = s3_proxy
        self.database = database_proxy

    async def chunks(self, job: ClaimedJob) -> list[LogChunk]:
        return await list_chunks(self.jobs.connection, job.tenant_id, job.attempt.job_id)

    async def lines(self, job: ClaimedJob) -> list[dict[str, Any]]:
        """What is stored of the job's log, after a check that the rows tell the truth."""
        found: list[dict[str, Any]] = []
        for chunk in await self.chunks(job):
            stored = chunk.stored
            data = await self.store.get(stored.object_key, stored.byte_offset, stored.byte_length)
            assert len(data) == stored.byte_length
            assert data.endswith(b"\n")
            lines = [json.loads(line) for line in data.splitlines()]
            assert len(lines) == chunk.line_count
            assert {line["attempt"] for line in lines} == {chunk.attempt}
            found += lines
        return found

    async def messages(self, job: ClaimedJob) -> list[str]:
        return [line["message"] for line in await self.lines(job)]

    async def wait_for(self, job: ClaimedJob, message: str) -> list[str]:
        """The job's messages, as soon as the last one is this."""

        async def look() -> list[str] | None:
            try:
                found = await self.messages(job)
            except (ObjectMissing, ServiceUnavailable):
                # While uploads of one object overlap, rclone may show none of it or a part.
                return None
            return found if found and re.fullmatch(message, found[-1]) else None

        return await eventually(look)


class Shippers:
    """Starts shippers and ends them with the test."""

    def __init__(self, store: ObjectStore, database: Database) -> None:
        self._store = store
        self._database = database
        self.started: list[LogShipper] = []

    def start(self, **changes: Any) -> LogShipper:
        options: dict[str, Any] = {
            "flush_seconds": NEVER,
            "attempt_max_bytes": 64 * 1024 * 1024,
            "buffer_max_bytes": 128 * 1024 * 1024,
        } | changes
        shipper = LogShipper(self._store, self._database, uuid7(), **options)
        shipper.start()
        self.started.append(shipper)
        return shipper


def write(log: AttemptLog, *messages: str, **fields: Any) -> None:
    for message in messages:
        log.write("info", message, "job", fields)
