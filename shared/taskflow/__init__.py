"""TaskFlow's SDK: with this a job is written."""

from taskflow.jobs.backoff import Backoff
from taskflow.sdk.context import JobContext, SyncJobContext
from taskflow.sdk.errors import Fail, JobStopped, Retry
from taskflow.sdk.job_type import JobFunction, JobType, job
from taskflow.sdk.registry import Registry

__all__ = [
    "Backoff",
    "Fail",
    "JobContext",
    "JobFunction",
    "JobStopped",
    "JobType",
    "Registry",
    "Retry",
    "SyncJobContext",
    "job",
]
