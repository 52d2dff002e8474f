"""What the stack takes from .env."""

import pytest

from taskflow_local.errors import StackError
from taskflow_local.stack_settings import load_stack_settings

VALUES = {
    "TASKFLOW_API_PORT": "8000",
    "TASKFLOW_POSTGRES_PORT": "5432",
    "TASKFLOW_RABBITMQ_PORT": "5672",
    "TASKFLOW_RABBITMQ_MANAGEMENT_PORT": "15672",
    "TASKFLOW_RABBITMQ_PROMETHEUS_PORT": "15692",
    "TASKFLOW_RABBITMQ_EPMD_PORT": "14369",
    "TASKFLOW_RABBITMQ_DISTRIBUTION_PORT": "14370",
    "TASKFLOW_REDIS_PORT": "6379",
    "TASKFLOW_S3_PORT": "9000",
    "TASKFLOW_POSTGRES_PASSWORD": "p",
    "TASKFLOW_POSTGRES_API_PASSWORD": "pa",
    "TASKFLOW_POSTGRES_CONSUMER_PASSWORD": "pc",
    "TASKFLOW_POSTGRES_SCHEDULER_PASSWORD": "ps",
    "TASKFLOW_RABBITMQ_API_PASSWORD": "qa",
    "TASKFLOW_RABBITMQ_CONSUMER_PASSWORD": "qc",
    "TASKFLOW_RABBITMQ_SCHEDULER_PASSWORD": "qs",
    "TASKFLOW_RABBITMQ_PASSWORD": "r",
    "TASKFLOW_REDIS_PASSWORD": "hidden-word",
    "TASKFLOW_S3_ACCESS_KEY": "a",
    "TASKFLOW_S3_SECRET_KEY": "s",
    "TASKFLOW_S3_BUCKET": "taskflow",
}


def test_values_become_ports_and_secrets() -> None:
    settings = load_stack_settings(VALUES | {"TASKFLOW_SHUTDOWN_GRACE_SECONDS": "5", "OTHER": "x"})
    assert settings.redis_port == 6379
    assert settings.redis_password == "hidden-word"
    assert settings.shutdown_grace_seconds == 5
    assert "hidden-word" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("TASKFLOW_API_PORT", "", ".env: TASKFLOW_API_PORT: is not set"),
        ("TASKFLOW_API_PORT", "http", ".env: TASKFLOW_API_PORT: is not a port number"),
        ("TASKFLOW_API_PORT", "65536", ".env: TASKFLOW_API_PORT: is not a port number"),
        ("TASKFLOW_API_PORT", "0", ".env: TASKFLOW_API_PORT: is too small"),
        (
            "TASKFLOW_REDIS_PASSWORD",
            "a b",
            ".env: TASKFLOW_REDIS_PASSWORD: may hold only letters, digits and . _ ~ -",
        ),
        (
            "TASKFLOW_S3_PORT",
            "8000",
            ".env: TASKFLOW_API_PORT and TASKFLOW_S3_PORT are both 8000",
        ),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(name: str, value: str, problem: str) -> None:
    with pytest.raises(StackError) as raised:
        load_stack_settings(VALUES | {name: value})
    assert str(raised.value) == problem


def test_every_problem_has_its_line() -> None:
    with pytest.raises(StackError) as raised:
        load_stack_settings({})
    assert len(str(raised.value).splitlines()) == len(VALUES)
