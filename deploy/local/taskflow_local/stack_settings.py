"""What the stack of `make up` takes from .env, checked."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from taskflow_local.errors import StackError

PREFIX = "TASKFLOW_"

PortNumber = Annotated[int, Field(ge=1, le=65_535)]
# Secrets go into URLs, configuration files and supervisord's settings: these characters mean
# themselves in all of them.
PlainText = Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]+$")]
PlainSecret = Annotated[PlainText, Field(repr=False)]


class StackSettings(BaseModel):
    """Ports and secrets; the field `api_port` is the setting TASKFLOW_API_PORT."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    api_port: PortNumber
    postgres_port: PortNumber
    rabbitmq_port: PortNumber
    rabbitmq_management_port: PortNumber
    rabbitmq_prometheus_port: PortNumber
    rabbitmq_epmd_port: PortNumber
    rabbitmq_distribution_port: PortNumber
    redis_port: PortNumber
    s3_port: PortNumber
    s3_console_port: PortNumber = 9001
    database_url: str = Field("", repr=False)
    postgres_password: PlainSecret
    postgres_api_password: PlainSecret
    postgres_consumer_password: PlainSecret
    postgres_scheduler_password: PlainSecret
    amqp_url: str = Field("", repr=False)
    rabbitmq_password: PlainSecret
    rabbitmq_api_password: PlainSecret
    rabbitmq_consumer_password: PlainSecret
    rabbitmq_scheduler_password: PlainSecret
    redis_password: PlainSecret
    s3_access_key: PlainText
    s3_secret_key: PlainSecret
    s3_bucket: PlainText
    shutdown_grace_seconds: float = Field(30.0, ge=0)

    @model_validator(mode="after")
    def _each_port_once(self) -> "StackSettings":
        names = defaultdict(list)
        for name, value in self:
            if name.endswith("_port"):
                names[value].append(PREFIX + name.upper())
        doubles = [
            f"{' and '.join(found)} are both {port}"
            for port, found in names.items()
            if len(found) > 1
        ]
        if doubles:
            raise ValueError("; ".join(doubles))
        return self


def load_stack_settings(values: Mapping[str, str]) -> StackSettings:
    """Check the values of .env; an empty one counts as missing.

    Raises:
        StackError: a line for each setting that is missing or malformed.
    """
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in values.items()
        if name.startswith(PREFIX) and value
    }
    try:
        return StackSettings.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
    raise StackError(
        "\n".join(_line(problem["loc"], problem["type"], problem["msg"]) for problem in problems)
    )


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    if not location:
        return f".env: {message.removeprefix('Value error, ')}"
    said = {
        "missing": "is not set",
        "int_parsing": "is not a port number",
        "less_than_equal": "is not a port number",
        "greater_than_equal": "is too small",
        "string_pattern_mismatch": "may hold only letters, digits and . _ ~ -",
    }.get(kind, message[:1].lower() + message[1:])
    return f".env: {PREFIX}{str(location[0]).upper()}: {said}"
