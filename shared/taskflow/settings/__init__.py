"""Every setting, by theme and by process. Read once, in a process's `__main__`, and passed on."""

from taskflow.settings.base import Settings, exit_with, load_settings
from taskflow.settings.door import DoorSettings, LimitSettings
from taskflow.settings.jobs import RetentionSettings
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
from taskflow.settings.servers import BrokerSettings, DatabaseSettings, ObjectStoreSettings
from taskflow.settings.users import OidcSettings, UserSettings

__all__ = [
    "MAILBOX",
    "QUEUE_NAME",
    "ApiSettings",
    "BrokerSettings",
    "ConsumerSettings",
    "DatabaseSettings",
    "DoctorSettings",
    "DoorSettings",
    "LimitSettings",
    "MailSettings",
    "MigrationSettings",
    "ObjectStoreSettings",
    "OidcSettings",
    "OutboundSettings",
    "ResealSettings",
    "RetentionSettings",
    "SchedulerSettings",
    "Settings",
    "UserSettings",
    "exit_with",
    "load_settings",
]
