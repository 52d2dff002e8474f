"""What each process needs, made of the themes."""

import re
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from taskflow.setting_types import CommaSeparated, Port, Seconds
from taskflow.settings.door import CacheSettings, DoorSettings, LimitSettings
from taskflow.settings.jobs import (
    LeaseSettings,
    QuotaSettings,
    RetentionSettings,
    RunningQuotaSettings,
    SealingSettings,
)
from taskflow.settings.outbound import MailSettings, OutboundSettings
from taskflow.settings.servers import (
    BrokerSettings,
    DatabaseSettings,
    ObjectStoreSettings,
    RedisSettings,
)
from taskflow.settings.users import OidcSettings, UserSettings

QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class MigrationSettings(DatabaseSettings):
    """What a migration needs."""


class ApiSettings(
    DoorSettings,
    LimitSettings,
    CacheSettings,
    UserSettings,
    OidcSettings,
    QuotaSettings,
    DatabaseSettings,
    BrokerSettings,
    RedisSettings,
    ObjectStoreSettings,
    SealingSettings,
):
    """What the API needs."""

    api_host: str = "127.0.0.1"
    api_port: Port = 8000
    api_key: SecretStr = Field(min_length=16)
    submission_batch_size: int = Field(200, ge=1, le=1000)
    worker_lost_after_seconds: Seconds = 30.0


class ConsumerSettings(
    DatabaseSettings,
    BrokerSettings,
    ObjectStoreSettings,
    LeaseSettings,
    RunningQuotaSettings,
    OutboundSettings,
    MailSettings,
    SealingSettings,
):
    """What a consumer needs."""

    handlers: CommaSeparated = ()
    disabled_built_ins: CommaSeparated = ()
    queues: CommaSeparated = ()
    concurrency: int = Field(10, ge=1, le=10_000)
    shutdown_grace_seconds: float = Field(30.0, ge=0, le=86_400)
    result_inline_bytes: int = Field(64 * 1024, ge=0)
    result_max_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    max_jobs_per_process: int = Field(0, ge=0)
    max_memory_mib: int = Field(0, ge=0)
    log_flush_seconds: Seconds = 2.0
    log_attempt_max_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    log_buffer_max_bytes: int = Field(128 * 1024 * 1024, ge=1024)
    log_spool_dir: Path = Path(".taskflow/up/log-spool")
    log_spool_max_bytes: int = Field(1024 * 1024 * 1024, ge=0)

    @field_validator("queues")
    @classmethod
    def _queue_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not QUEUE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a queue name (1-64 of A-Z a-z 0-9 _ -)")
        return value


class SchedulerSettings(
    DatabaseSettings,
    BrokerSettings,
    ObjectStoreSettings,
    LeaseSettings,
    RunningQuotaSettings,
    RetentionSettings,
):
    """What a scheduler needs."""

    scheduler_tick_seconds: Seconds = 1.0
    pointer_lost_after_seconds: Seconds = 45.0
    worker_lost_after_seconds: Seconds = 30.0


class ResealSettings(DatabaseSettings, ObjectStoreSettings, SealingSettings):
    """What it takes to seal everything with the first key."""


class DoctorSettings(DatabaseSettings, BrokerSettings, RedisSettings, ObjectStoreSettings):
    """What the doctor needs to look at everything."""

    heartbeat_seconds: Seconds = 5.0
    pointer_lost_after_seconds: Seconds = 45.0
    worker_lost_after_seconds: Seconds = 30.0
