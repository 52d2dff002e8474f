"""How to reach the servers behind us, and whose certificates count for theirs."""

import re

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from taskflow.setting_types import (
    Address,
    AuthoritiesFile,
    HttpAddress,
    RedisAddress,
    Seconds,
)
from taskflow.settings.base import Settings
from taskflow.tls import verified_amqp, verified_postgresql, verified_redis


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


def _authorities(info: ValidationInfo) -> str:
    # Not there if it is what was found malformed.
    return str(info.data.get("tls_ca_file", ""))
