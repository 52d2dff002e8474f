"""`taskflow keys`: a tenant's first key, and one for who has lost all."""

import asyncio
import os
import sys
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from taskflow.__main__ import main
from taskflow.access.key_lookup import look_up
from taskflow.access.scopes import ALL_SCOPES, Scope
from taskflow.api_key import parse
from taskflow.db.tenants import DEFAULT_TENANT_ID


async def keys(database_url: str, *words: str) -> tuple[int | None, str, str]:
    """Run it: its exit code, what it printed, and what it said beside it."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "taskflow", "keys", *words),
        env=os.environ | {"TASKFLOW_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, said = await running.communicate()
    return running.returncode, printed.decode(), said.decode()


async def test_a_new_tenant_gets_its_first_key(
    clean_database: str, connection: asyncpg.Connection
) -> None:
    words = ["create", "--tenant", "acme", "--name", "the first"]
    code, printed, said = await keys(clean_database, *words)
    assert (code, printed) == (1, "")
    assert "--new-tenant" in said

    code, printed, said = await keys(clean_database, *words, "--new-tenant")
    assert code == 0, said
    assert printed.count("\n") == 1
    key = parse(printed.strip())
    assert key.secret not in said
    [stored] = (await look_up(connection, [key.key_id])).values()
    assert stored.secret_hash == key.digest
    assert stored.scopes == {Scope.ADMIN}
    tenant_id = await connection.fetchval("SELECT id FROM tenants WHERE name = 'acme'")
    assert stored.tenant_id == tenant_id != DEFAULT_TENANT_ID
    log = await connection.fetch("SELECT * FROM audit_log ORDER BY id")
    assert [(row["action"], row["tenant_id"], row["actor_kind"]) for row in log] == [
        ("tenant.create", tenant_id, "operator"),
        ("api_key.create", tenant_id, "operator"),
    ]

    code, _, said = await keys(clean_database, *words, "--new-tenant")
    assert (code, said) == (
        1,
        "taskflow: there is a tenant acme already: leave --new-tenant out.\n",
    )


async def test_a_key_has_what_is_asked_for(
    clean_database: str, connection: asyncpg.Connection
) -> None:
    scopes = [word for scope in ALL_SCOPES - {Scope.ADMIN} for word in ("--scope", scope)]
    words = ["create", "--tenant", "default", "--name", "x", "--expires-in-days", "2", *scopes]
    code, printed, said = await keys(clean_database, *words)
    assert code == 0, said
    key_id = parse(printed.strip()).key_id
    stored = (await look_up(connection, [key_id]))[key_id]
    assert stored.tenant_id == DEFAULT_TENANT_ID
    assert stored.scopes == ALL_SCOPES - {Scope.ADMIN}
    assert stored.seconds_left is not None
    assert 172_000 < stored.seconds_left <= 172_800


async def test_who_may_not_is_told_so_in_a_line(
    clean_database: str, connection: asyncpg.Connection
) -> None:
    url, role = urlsplit(clean_database), f"taskflow_test_{uuid4().hex[:12]}"
    await connection.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'p';"
        f' GRANT CONNECT ON DATABASE "{url.path[1:]}" TO {role}'
    )
    nobody = url._replace(netloc=f"{role}:p@{url.hostname}:{url.port}")
    try:
        words = ["create", "--tenant", "default", "--name", "x"]
        code, printed, said = await keys(urlunsplit(nobody), *words)
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert (code, printed) == (1, "")
    assert "owns the tables" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "url", ["postgresql://u:canary@127.0.0.1:1/taskflow", "mysql://u:canary@h/d"]
)
async def test_a_database_that_is_not_there_is_a_line(url: str) -> None:
    code, printed, said = await keys(url, "create", "--tenant", "default", "--name", "x")
    assert code in (1, 2)
    assert printed == ""
    assert said.startswith("taskflow: TASKFLOW_DATABASE_URL")
    assert said.count("\n") == 1
    assert "canary" not in said


@pytest.mark.parametrize(
    "words",
    [
        ["--tenant", "Acme", "--name", "x"],
        ["--tenant", "", "--name", "x"],
        ["--tenant", "acme", "--name", ""],
        ["--tenant", "acme", "--name", "a\nb"],
        ["--tenant", "acme", "--name", "x", "--scope", "all"],
        ["--tenant", "acme", "--name", "x", "--expires-in-days", "0"],
    ],
)
def test_what_can_not_be_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["keys", "create", *words])
    assert raised.value.code == 2
