"""How jobs are kept: sealed, by how many, under leases, and for how long what has ended."""

from pydantic import Field, SecretStr, model_validator

from taskflow.setting_types import PayloadKeys, Seconds
from taskflow.settings.base import Settings


class SealingSettings(Settings):
    """The keys that seal payloads and results at rest; without any nothing is sealed."""

    payload_keys: PayloadKeys = SecretStr("")


class QuotaSettings(Settings):
    """How much a tenant may have, where its own quota doesn't say; 0 is any number.

    One that a registration made may keep less.
    """

    quota_waiting_jobs: int = Field(1_000_000, ge=0)
    quota_kept_bytes: int = Field(64 * 1024 * 1024 * 1024, ge=0)
    registration_quota_kept_bytes: int = Field(256 * 1024 * 1024, ge=0)


class RunningQuotaSettings(Settings):
    """How many jobs of a tenant run at once, where its own quota doesn't say; 0 is any number."""

    quota_running_jobs: int = Field(0, ge=0)


class LeaseSettings(Settings):
    """The rhythm by which a running job proves that it is alive."""

    lease_seconds: Seconds = 15.0
    heartbeat_seconds: Seconds = 5.0

    @model_validator(mode="after")
    def _several_beats_per_lease(self) -> "LeaseSettings":
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "TASKFLOW_LEASE_SECONDS must be at least twice TASKFLOW_HEARTBEAT_SECONDS,"
                " or one late beat loses the job"
            )
        return self


class RetentionSettings(Settings):
    """How long is kept what has ended; the audit log from when it was written."""

    # What is younger PostgreSQL keeps from the scheduler, too.
    retention_audit_days: int = Field(730, ge=30, le=36_500)
    retention_keys_days: int = Field(90, ge=1, le=36_500)
    retention_sessions_days: int = Field(30, ge=1, le=36_500)
