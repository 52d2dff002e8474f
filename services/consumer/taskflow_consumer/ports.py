"""What the executor needs of the rest of the consumer, and nothing more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.finishing import Recorded, Stale
from taskflow.jobs.outcomes import Attempt, Outcome
from taskflow.sdk.context import AttemptLog


class Recorder(Protocol):
    """Writes outcomes down."""

    async def record(self, attempt: Attempt, outcome: Outcome) -> Recorded | Stale:
        """Record an outcome, however long it takes; `Stale`: it was refused."""


class Leases(Protocol):
    """Keeps the leases of running attempts alive."""

    def hold(self, attempt: Attempt, deadline_seconds: float | None) -> None:
        """Keep an attempt's lease; if it is still held after `deadline_seconds`, we hang."""

    def hold_all(self, attempts: Sequence[Attempt]) -> None:
        """Keep the leases of attempts that begin together."""

    def drop(self, attempt: Attempt) -> None:
        """Let go of an attempt; one that isn't held is passed over."""


class LogShipper(Protocol):
    """Carries the lines of jobs to the object store."""

    def open(self, job: ClaimedJob) -> AttemptLog:
        """The log of an attempt that begins."""


class Artifacts(Protocol):
    """Files of jobs in the object store; keys are held to the job's tenant.

    Every call raises ServiceUnavailable, in a bounded time, when the store is not well.
    """

    async def put(self, job: ClaimedJob, name: str, data: bytes, content_type: str) -> str:
        """Store bytes under the job's own prefix; the key.

        Raises:
            InvalidContent: `name` is no relative path.
        """

    async def put_file(self, job: ClaimedJob, name: str, path: Path, content_type: str) -> str:
        """Store a file under the job's own prefix; the key. Errors as `put`."""

    async def get(self, job: ClaimedJob, key: str) -> bytes:
        """The bytes of an artifact of the job's tenant.

        Raises:
            ObjectMissing: there is none, or it is another tenant's.
        """

    async def get_file(self, job: ClaimedJob, key: str, path: Path) -> None:
        """Write an artifact of the job's tenant to a file; errors as `get`."""


class Progress(Protocol):
    """Writes down how far running jobs have come."""

    def report(self, attempt: Attempt, percent: float, message: str | None) -> None:
        """Take note of it and return at once; a later report replaces one not yet written.

        Called in the loop's thread.
        """

    def is_unsettled(self, attempt: Attempt) -> bool:
        """Whether an attempt's last report is not written yet."""

    async def settle(self, attempt: Attempt) -> None:
        """Return when an attempt's last report is written, or can't be written soon."""


class Checkpoints(Protocol):
    """Writes down what jobs remember from attempt to attempt."""

    async def save(self, job: ClaimedJob, value_json: str) -> None:
        """Store the checkpoint of a running attempt.

        Raises:
            JobStopped: the job has moved on without this attempt.
        """
