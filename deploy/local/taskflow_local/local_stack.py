"""The stack of `make up`: which servers and services, with which settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from taskflow.broker.rights import BROKER_RIGHTS
from taskflow.db.roles import DatabaseRole
from taskflow_local.component import Component
from taskflow_local.ports import LOOPBACK, Port
from taskflow_local.postgres import Login, Postgres
from taskflow_local.rabbitmq import BrokerLogin, RabbitMQ
from taskflow_local.redis import Redis
from taskflow_local.s3 import S3
from taskflow_local.services import Service
from taskflow_local.stack import Stack
from taskflow_local.stack_settings import StackSettings

API_GRACE_SECONDS = 30
"""What the API takes to end at worst: for requests under way, then for its pointers."""

_USER = "taskflow"
_ROLES: Mapping[str, Sequence[DatabaseRole]] = {
    "api": (DatabaseRole.TENANT, DatabaseRole.INTAKE, DatabaseRole.API),
    "consumer": (DatabaseRole.CONSUMER,),
    "scheduler": (DatabaseRole.SCHEDULER,),
}


def stack_directory(checkout: Path) -> Path:
    """Where its data and logs are."""
    return checkout / ".taskflow" / "up"


def build_stack(checkout: Path, settings: StackSettings) -> Stack:
    """Put it together; nothing is started."""
    directory = stack_directory(checkout)
    return Stack(directory, _servers(directory, settings), _services(checkout, settings))


def logins(settings: StackSettings) -> dict[str, Login]:
    """Each service's own way into PostgreSQL."""
    passwords = {
        "api": settings.postgres_api_password,
        "consumer": settings.postgres_consumer_password,
        "scheduler": settings.postgres_scheduler_password,
    }
    return {
        service: Login(f"{_USER}_{service}_login", passwords[service], roles)
        for service, roles in _ROLES.items()
    }


def broker_logins(settings: StackSettings) -> dict[str, BrokerLogin]:
    """Each service's own way into RabbitMQ."""
    passwords = {
        "api": settings.rabbitmq_api_password,
        "consumer": settings.rabbitmq_consumer_password,
        "scheduler": settings.rabbitmq_scheduler_password,
    }
    return {
        service: BrokerLogin(f"{_USER}_{service}", passwords[service], rights)
        for service, rights in BROKER_RIGHTS.items()
    }


def _servers(directory: Path, settings: StackSettings) -> list[Component]:
    return [
        Postgres(
            directory / "postgres",
            settings.postgres_port,
            role=_USER,
            password=settings.postgres_password,
            database=_USER,
            logins=list(logins(settings).values()),
        ),
        RabbitMQ(
            directory / "rabbitmq",
            settings.rabbitmq_port,
            management_port=settings.rabbitmq_management_port,
            prometheus_port=settings.rabbitmq_prometheus_port,
            epmd_port=settings.rabbitmq_epmd_port,
            distribution_port=settings.rabbitmq_distribution_port,
            user=_USER,
            password=settings.rabbitmq_password,
            virtual_host=_USER,
            logins=list(broker_logins(settings).values()),
        ),
        Redis(
            directory / "redis",
            settings.redis_port,
            settings.redis_password,
        ),
        S3(
            directory / "s3",
            settings.s3_port,
            settings.s3_access_key,
            settings.s3_secret_key,
            settings.s3_bucket,
        ),
    ]


def _services(checkout: Path, settings: StackSettings) -> list[Component]:
    api_port = Port(settings.api_port, "the API", "TASKFLOW_API_PORT")
    environments = _environments(settings)
    return [
        Service(
            "api",
            "taskflow_api",
            checkout,
            readyz_port=api_port,
            environment=environments["api"],
            grace_seconds=API_GRACE_SECONDS,
        ),
        Service(
            "consumer",
            "taskflow_consumer",
            checkout,
            environment=environments["consumer"],
            grace_seconds=settings.shutdown_grace_seconds,
        ),
        # Two, of which an advisory lock elects the one that acts: the other takes over.
        *(
            Service(
                f"scheduler-{number}",
                "taskflow_scheduler",
                checkout,
                environment=environments["scheduler"],
            )
            for number in (1, 2)
        ),
    ]


def _environments(settings: StackSettings) -> dict[str, dict[str, str]]:
    """What each service is given beside .env: its own logins, where the server is the stack's."""

    def postgres(user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@{LOOPBACK}:{settings.postgres_port}/{_USER}"

    def rabbitmq(user: str, password: str) -> str:
        return f"amqp://{user}:{password}@{LOOPBACK}:{settings.rabbitmq_port}/{_USER}"

    environments: dict[str, dict[str, str]] = {service: {} for service in _ROLES}
    if settings.database_url in {"", postgres(_USER, settings.postgres_password)}:
        for service, login in logins(settings).items():
            environments[service]["TASKFLOW_DATABASE_URL"] = postgres(login.name, login.password)
    if settings.amqp_url in {"", rabbitmq(_USER, settings.rabbitmq_password)}:
        for service, each in broker_logins(settings).items():
            environments[service]["TASKFLOW_AMQP_URL"] = rabbitmq(each.name, each.password)
    return environments
