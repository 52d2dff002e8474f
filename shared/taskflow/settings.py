"""Every setting, by process. Read once, in a process's `__main__`, and passed on from there."""

import re
import sys
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from taskflow.errors import ConfigurationError
from taskflow.setting_types import (
    Address,
    AuthoritiesFile,
    CommaSeparated,
    HttpAddress,
    Networks,
    PayloadKeys,
    Port,
    RedisAddress,
    Seconds,
)
from taskflow.tls import verified_amqp, verified_postgresql, verified_redis

PREFIX = "TASKFLOW_"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ADDRESS = rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*"
MAILBOX = re.compile(
    rf"(?:(?P<name>[^<>\x00-\x1f\x7f-\x9f\u2028\u2029]*)<(?P<named>{_ADDRESS})>|(?P<bare>{_ADDRESS}))"
)
"""ada@example.com or Ada <ada@example.com>; what else the standard allows only hides something."""
QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")
LEAST_SECRET_CHARACTERS = 32
ASYMMETRIC_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""What others may sign with: never what is checked with a key that signs as well."""
SettingsType = TypeVar("SettingsType", bound="Settings")


class Settings(BaseSettings):
    """What every process reads: the log's form."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
    )

    log_level: str = "INFO"
    log_format: str = "json"

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("log_format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in {"json", "console"}:
            raise ValueError("must be json or console")
        return value


class TlsSettings(Settings):
    """The authorities whose certificates count for the servers behind us; else the machine's."""

    tls_ca_file: AuthoritiesFile = ""


class DatabaseSettings(TlsSettings):
    """How to reach PostgreSQL, and how long to wait for it."""

    database_url: Address
    database_pool_size: int = Field(10, ge=1, le=200)
    database_statement_timeout_seconds: Seconds = 10.0
    database_acquire_timeout_seconds: Seconds = 5.0

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if not re.match(r"postgres(ql)?://", value.get_secret_value()):
            raise ValueError("must begin with postgresql://")
        return SecretStr(verified_postgresql(value.get_secret_value(), _authorities(info)))


class BrokerSettings(TlsSettings):
    """How to reach RabbitMQ: one address, or a cluster's with commas between them."""

    amqp_url: Address
    amqp_publish_timeout_seconds: Seconds = 10.0

    @field_validator("amqp_url")
    @classmethod
    def _amqp(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        addresses = [each.strip() for each in value.get_secret_value().split(",")]
        if not all(re.match("amqps?://", each) for each in addresses):
            raise ValueError(
                "must begin with amqp:// or amqps://; several have commas between them, and a"
                " comma in a password is %2C"
            )
        return SecretStr(",".join(verified_amqp(each, _authorities(info)) for each in addresses))


class RedisSettings(TlsSettings):
    """How to reach Redis."""

    redis_url: RedisAddress

    @field_validator("redis_url")
    @classmethod
    def _verified(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        return SecretStr(verified_redis(value.get_secret_value(), _authorities(info)))


class ObjectStoreSettings(TlsSettings):
    """How to reach the object store (any S3)."""

    s3_endpoint: HttpAddress
    s3_access_key: SecretStr
    s3_secret_key: SecretStr
    s3_bucket: str = "taskflow"
    s3_region: str = "us-east-1"
    s3_timeout_seconds: Seconds = 10.0


class SealingSettings(Settings):
    """The keys that seal payloads and results at rest; without any nothing is sealed."""

    payload_keys: PayloadKeys = SecretStr("")


class MigrationSettings(DatabaseSettings):
    """What a migration needs."""


class DoorSettings(Settings):
    """Whom the API lets in: its names, pages, proxies, and how often an address may ask."""

    max_body_bytes: int = Field(256 * 1024, ge=1024)
    allowed_hosts: CommaSeparated = ("localhost", "api")
    cors_origins: CommaSeparated = ()
    trusted_proxies: Networks = ()
    forwarded_header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For"
    address_limit_requests: int = Field(6_000, ge=0)
    address_limit_seconds: int = Field(60, ge=1, le=86_400)
    unlimited_addresses: Networks = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a name of a host (*.example.com for all below)")
        return tuple(name.lower() for name in value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin like https://example.com:8443")
        return value


class LimitSettings(Settings):
    """How much a tenant and a key may ask of all API processes; 0 is any number."""

    tenant_limit_requests: int = Field(300_000, ge=0, le=10_000_000)
    tenant_limit_seconds: int = Field(60, ge=1, le=86_400)
    key_limit_requests: int = Field(0, ge=0, le=10_000_000)
    key_limit_seconds: int = Field(60, ge=1, le=86_400)
    limit_local_share: float = Field(0.5, gt=0, le=1)


class CacheSettings(Settings):
    """How long the API keeps what never changes, and what of it; 0 seconds is not at all."""

    cache_seconds: float = Field(60.0, ge=0, le=86_400)
    cache_entry_max_bytes: int = Field(1024 * 1024, ge=1024, le=16 * 1024 * 1024)
    cache_process_max_bytes: int = Field(32 * 1024 * 1024, ge=1024)


class UserSettings(Settings):
    """How users sign in; `smtp_host`: whether there is a server that takes mail to them."""

    jwt_secret: SecretStr = Field(min_length=LEAST_SECRET_CHARACTERS)
    jwt_previous_secret: SecretStr = SecretStr("")
    access_token_seconds: int = Field(900, ge=60, le=3_600)
    session_seconds: int = Field(30 * 86_400, ge=3_600, le=366 * 86_400)
    registration_open: bool = True
    registration_job_types: CommaSeparated = ("echo", "sleep", "flaky")
    login_limit_attempts: int = Field(10, ge=1, le=10_000)
    login_limit_seconds: int = Field(600, ge=1, le=86_400)
    smtp_host: str = ""

    @field_validator("jwt_previous_secret")
    @classmethod
    def _as_long(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and len(value.get_secret_value()) < LEAST_SECRET_CHARACTERS:
            raise ValueError(f"must have at least {LEAST_SECRET_CHARACTERS} characters, or none")
        return value


class OidcSettings(Settings):
    """The issuer whose tokens count beside our own; none is set by default."""

    oidc_issuer: str = ""
    oidc_audience: str = ""
    oidc_jwks_url: str = ""
    oidc_algorithms: CommaSeparated = ("RS256", "ES256")
    oidc_tenant_claim: str = "tenant"
    oidc_scopes_claim: str = "scope"

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _on_the_web(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s?#]+(\?[^\s#]*)?", value):
            raise ValueError("must begin with https:// or http:// and name a host")
        return value

    @field_validator("oidc_algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= ASYMMETRIC_ALGORITHMS:
            raise ValueError(f"must be some of {', '.join(sorted(ASYMMETRIC_ALGORITHMS))}")
        return value

    @model_validator(mode="after")
    def _for_us(self) -> "OidcSettings":
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError(
                "TASKFLOW_OIDC_ISSUER needs TASKFLOW_OIDC_AUDIENCE, or tokens for anybody's"
                " service would count here"
            )
        return self


class RunningQuotaSettings(Settings):
    """How many jobs of a tenant run at once, where its own quota doesn't say; 0 is any number."""

    quota_running_jobs: int = Field(0, ge=0)


class QuotaSettings(Settings):
    """How much a tenant may have, where its own quota doesn't say; 0 is any number."""

    quota_waiting_jobs: int = Field(1_000_000, ge=0)
    quota_payload_bytes: int = Field(4 * 1024 * 1024 * 1024, ge=0)
    quota_result_bytes: int = Field(0, ge=0)


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


class OutboundSettings(Settings):
    """Where requests to URLs that users name may go, beside public addresses."""

    outbound_allowed_networks: Networks = ()


class MailSettings(Settings):
    """The SMTP server that takes our mail; none is set by default."""

    smtp_host: str = ""
    smtp_port: Port = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_username: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_from: str = ""
    smtp_timeout_seconds: Seconds = 30.0

    @model_validator(mode="after")
    def _whole(self) -> "MailSettings":
        if self.smtp_host and not self.smtp_from:
            raise ValueError("TASKFLOW_SMTP_HOST needs TASKFLOW_SMTP_FROM, the sender of all mail")
        if self.smtp_from and not MAILBOX.fullmatch(self.smtp_from):
            raise ValueError(
                "TASKFLOW_SMTP_FROM must be name@example.com or Name <name@example.com>"
            )
        if bool(self.smtp_username) != bool(self.smtp_password.get_secret_value()):
            raise ValueError("TASKFLOW_SMTP_USERNAME and TASKFLOW_SMTP_PASSWORD go together")
        if self.smtp_username and self.smtp_security == "none":
            raise ValueError(
                "TASKFLOW_SMTP_SECURITY=none would send TASKFLOW_SMTP_PASSWORD in the clear"
            )
        return self


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


class RetentionSettings(Settings):
    """How long is kept what has ended: the audit log from its writing, the others from their end."""

    # What is younger PostgreSQL keeps from the scheduler, too.
    retention_audit_days: int = Field(730, ge=30, le=36_500)
    retention_keys_days: int = Field(90, ge=1, le=36_500)
    retention_sessions_days: int = Field(30, ge=1, le=36_500)


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


def _authorities(info: ValidationInfo) -> str:
    # Not there if it is what was found malformed.
    return str(info.data.get("tls_ca_file", ""))


def load_settings(settings_type: type[SettingsType]) -> SettingsType:
    """Read the environment and `.env`.

    Raises:
        ConfigurationError: one line for each setting that is missing or malformed.
    """
    env_file = Path(".env")
    try:
        return settings_type()
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            where = problem["loc"]
            name = PREFIX + str(where[0]).upper() if where else "settings"
            detail = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "missing":
                hint = "" if env_file.exists() else " (there is no .env here; 'make up' writes one)"
                detail = f"is not set{hint}"
            lines.append(f"{name}: {detail}")
        raise ConfigurationError("; ".join(lines)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{env_file} is not UTF-8 text") from None


def exit_with(error: Exception) -> NoReturn:
    """End the process at start with one line that says why."""
    sys.exit(f"taskflow: {error}")
