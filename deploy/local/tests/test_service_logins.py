"""Each service's own login: given where the database is the stack's, and fit for its roles."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from taskflow.db.roles import DatabaseRole, RoleRefused, connect_as
from taskflow_local.lifecycle import settle_settings
from taskflow_local.local_stack import build_stack, logins
from taskflow_local.ports import LOOPBACK, choose_free
from taskflow_local.postgres import Postgres, binary
from taskflow_local.stack import Stack
from taskflow_local.stack_settings import StackSettings, load_stack_settings

OWN_URL = "postgresql://taskflow:secret@127.0.0.1:5433/taskflow"
ELSEWHERE = "postgresql://me:mine@db.example.com/taskflow"
BROKER_ELSEWHERE = "amqps://me:mine@mq.example.com/taskflow"


def settings(**changes: str) -> StackSettings:
    ports = {
        name: str(5433 + number)
        for number, name in enumerate(
            field for field in StackSettings.model_fields if field.endswith("_port")
        )
    }
    secrets = {
        name: "secret"
        for name in StackSettings.model_fields
        if name.endswith(("_password", "_key", "_bucket"))
    }
    values = ports | secrets | {"postgres_port": "5433", "api_port": "6500"} | changes
    return load_stack_settings({f"TASKFLOW_{k.upper()}": v for k, v in values.items()})


def urls(settings: StackSettings, variable: str = "TASKFLOW_DATABASE_URL") -> dict[str, str | None]:
    """What each service is given beside .env and the environment."""
    services = build_stack(Path("/nowhere"), settings).services
    return {
        program.name: program.environment.get(variable)
        for service in services
        for program in service.programs()
    }


@pytest.mark.parametrize("database_url", ["", OWN_URL])
def test_each_service_has_a_login_of_its_own(database_url: str) -> None:
    own = "postgresql://taskflow_{}_login:secret@127.0.0.1:5433/taskflow"
    assert urls(settings(database_url=database_url)) == {
        "api": own.format("api"),
        "consumer": own.format("consumer"),
        "scheduler-1": own.format("scheduler"),
        "scheduler-2": own.format("scheduler"),
    }


def test_a_database_elsewhere_is_taken_as_env_says() -> None:
    assert set(urls(settings(database_url=ELSEWHERE)).values()) == {None}


@pytest.mark.parametrize(
    ("variable", "elsewhere"),
    [("TASKFLOW_DATABASE_URL", ELSEWHERE), ("TASKFLOW_AMQP_URL", BROKER_ELSEWHERE)],
)
def test_a_server_elsewhere_is_taken_as_the_environment_says(
    tmp_path: Path, checkout: Path, variable: str, elsewhere: str
) -> None:
    shutil.copy(checkout / ".env.example", tmp_path)
    ours = settle_settings(tmp_path, {}, running=False)
    assert None not in urls(ours, variable).values()
    others = settle_settings(tmp_path, {variable: elsewhere}, running=False)
    assert set(urls(others, variable).values()) == {None}


@pytest.mark.parametrize("amqp_url", ["", "amqp://taskflow:secret@127.0.0.1:5672/taskflow"])
def test_each_service_has_a_user_of_its_own_in_rabbitmq(amqp_url: str) -> None:
    own = "amqp://taskflow_{}:secret@127.0.0.1:5672/taskflow"
    found = urls(settings(amqp_url=amqp_url, rabbitmq_port="5672"), "TASKFLOW_AMQP_URL")
    assert found == {
        "api": own.format("api"),
        "consumer": own.format("consumer"),
        "scheduler-1": own.format("scheduler"),
        "scheduler-2": own.format("scheduler"),
    }


def test_a_broker_elsewhere_is_taken_as_env_says() -> None:
    found = urls(settings(amqp_url=BROKER_ELSEWHERE), "TASKFLOW_AMQP_URL")
    assert set(found.values()) == {None}


async def test_a_login_takes_its_own_roles_and_no_others(tmp_path: Path, checkout: Path) -> None:
    (port,) = choose_free(1)
    bare = Postgres(
        tmp_path / "postgres",
        port,
        role="taskflow",
        password="secret",
        database="taskflow",
        throwaway=True,
    )
    server = replace(bare, logins=list(logins(settings()).values()))
    owner = f"postgresql://taskflow:secret@{LOOPBACK}:{port}/taskflow"
    with running(tmp_path, bare):
        refusal = migrate(checkout, owner)
    assert refusal.count("\n") == 1
    for role in DatabaseRole:
        assert f"CREATE ROLE {role} NOLOGIN;" in refusal
    assert f'GRANT {", ".join(DatabaseRole)} TO "taskflow" WITH INHERIT TRUE, SET TRUE;' in refusal
    with running(tmp_path, server):
        assert migrate(checkout, owner) == ""
        for login in server.logins:
            url = f"postgresql://{login.name}:{login.password}@{LOOPBACK}:{port}/taskflow"
            for role in DatabaseRole:
                if role in login.roles:
                    assert await who_acts(role, url) == role
                else:
                    with pytest.raises(RoleRefused):
                        await who_acts(role, url)
            await has_no_rights_by_itself(url)
            assert "done by the owner" in reseal(tmp_path, url)
        assert "owns the tables" in make_key(checkout, url)
        assert reseal(tmp_path, owner) == ""
        assert {await who_acts(role, owner) for role in DatabaseRole} == set(DatabaseRole)
        assert await tenants_seen(owner) == 1
        assert "\tdefault\t" in dump(owner)
        assert make_key(checkout, owner) == ""
        assert "\ttenant.create\t" in dump(owner)
        assert await tenants_seen(owner) == 2
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(f"postgresql://postgres:x@{LOOPBACK}:{port}/postgres")


@contextmanager
def running(directory: Path, server: Postgres) -> Iterator[None]:
    stack = Stack(directory, [server])
    stack.start([server])
    try:
        yield
    finally:
        stack.stop()


def migrate(checkout: Path, url: str) -> str:
    """Bring a database up to date; the errors."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"],
        check=False,
        cwd=checkout,
        env=os.environ | {"TASKFLOW_DATABASE_URL": url},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) is (done.stderr == "")
    return done.stderr


def dump(url: str) -> str:
    """A backup, as the manual says that the owner takes it."""
    command: list[str | Path] = [binary("pg_dump"), "--enable-row-security", "--dbname", url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_key(checkout: Path, url: str) -> str:
    """Make a tenant with a key; why it can't be."""
    words = ["create", "--tenant", "acme", "--new-tenant", "--name", "the first"]
    done = subprocess.run(
        [sys.executable, "-m", "taskflow", "keys", *words],
        check=False,
        cwd=checkout,
        env=os.environ | {"TASKFLOW_DATABASE_URL": url},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) is done.stdout.startswith("tf_live_")
    return done.stderr if done.returncode else ""


def reseal(folder: Path, url: str) -> str:
    """Look for what is to be sealed anew; the errors."""
    settings = {
        "TASKFLOW_DATABASE_URL": url,
        "TASKFLOW_PAYLOAD_KEYS": f"k:{base64.b64encode(bytes(32)).decode()}",
        "TASKFLOW_S3_ENDPOINT": "http://127.0.0.1:1",
        "TASKFLOW_S3_ACCESS_KEY": "a",
        "TASKFLOW_S3_SECRET_KEY": "s",
    }
    done = subprocess.run(
        [sys.executable, "-m", "taskflow", "reseal", "--dry-run"],
        check=False,
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) is (done.stderr == "")
    return done.stderr


async def has_no_rights_by_itself(url: str) -> None:
    session = await asyncpg.connect(url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.fetchval("SELECT count(*) FROM jobs")
    finally:
        await session.close()


async def tenants_seen(url: str) -> int:
    session = await asyncpg.connect(url)
    try:
        return int(await session.fetchval("SELECT count(*) FROM tenants"))
    finally:
        await session.close()


async def who_acts(role: DatabaseRole, url: str) -> str:
    session = await connect_as(role, url, server_settings={})
    try:
        return str(await session.fetchval("SELECT current_user"))
    finally:
        await session.close()
