"""Every setting, by theme and by process. Read once, in a process's `__main__`, and passed on."""

from taskflow.settings.base import Settings, exit_with, load_settings
from taskflow.settings.door import CacheSettings, DoorSettings, LimitSettings
from taskflow.settings.jobs import (
    LeaseSettings,
    QuotaSettings,
    RetentionSettings,
    RunningQuotaSettings,
    SealingSettings,
)
from taskflow.settings.outbound import MAILBOX, MailSettings, OutboundSettings
from taskflow.settings.processes import (
    QUEUE_NAME,
    ApiSettings,
    ConsumerSettings,
    DoctorSettings,
    MigrationSettings,
    ResealSettings,
    SchedulerSettings,
)
from taskflow.settings.servers import (
    BrokerSettings,
    DatabaseSettings,
    ObjectStoreSettings,
    RedisSettings,
    TlsSettings,
)
from taskflow.settings.users import OidcSettings, UserSettings

__all__ = [
    "MAILBOX",
    "QUEUE_NAME",
    "ApiSettings",
    "BrokerSettings",
    "CacheSettings",
    "ConsumerSettings",
    "DatabaseSettings",
    "DoctorSettings",
    "DoorSettings",
    "LeaseSettings",
    "LimitSettings",
    "MailSettings",
    "MigrationSettings",
    "ObjectStoreSettings",
    "OidcSettings",
    "OutboundSettings",
    "QuotaSettings",
    "RedisSettings",
    "ResealSettings",
    "RetentionSettings",
    "RunningQuotaSettings",
    "SchedulerSettings",
    "SealingSettings",
    "Settings",
    "TlsSettings",
    "UserSettings",
    "exit_with",
    "load_settings",
]
