"""The stack of `make up`: which servers and services, with which settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from taskflow.db.roles import DatabaseRole
from taskflow_local.component import Component
from taskflow_local.ports import LOOPBACK, Port
from taskflow_local.postgres import Login, Postgres
from taskflow_local.rabbitmq import RabbitMQ
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
    """What each service is given beside .env: its own login, where the server is the stack's."""

    def url(user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@{LOOPBACK}:{settings.postgres_port}/{_USER}"

    is_ours = settings.database_url in {"", url(_USER, settings.postgres_password)}
    return {
        service: {"TASKFLOW_DATABASE_URL": url(login.name, login.password)} if is_ours else {}
        for service, login in logins(settings).items()
    }
