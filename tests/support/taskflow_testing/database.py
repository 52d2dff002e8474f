"""A database for each test worker, cloned from one that the migrations made."""

import asyncio
import hashlib
import io
import os
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from taskflow_testing.errors import MigrationFailed

# Arbitrary; whoever holds it builds the template, the other workers wait for it.
_TEMPLATE_LOCK = 7_083_912_114_002
_LOCK_TIMEOUT = "10s"


async def create_database(server_url: str, root: Path) -> str:
    """Clone a fresh migrated database; its URL."""
    connection = await asyncpg.connect(server_url)
    try:
        template = await _ensure_template(connection, server_url, root)
        name = f"taskflow_test_{uuid.uuid4().hex[:12]}"
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    finally:
        await connection.close()
    return _with_database(server_url, name)


async def drop_database(server_url: str, database_url: str) -> None:
    """Drop it, with the connections that tests left open."""
    name = urlsplit(database_url).path.removeprefix("/")
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()


async def empty_tables(database_url: str) -> None:
    """Delete every row but those that the migrations wrote.

    Raises asyncpg.LockNotAvailableError when an earlier test left a transaction open.
    """
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        tables = await connection.fetchval(
            """
            SELECT string_agg(format('%I.%I', schemaname, tablename), ', ')
            FROM pg_tables
            WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'tenants')
            """
        )
        await connection.execute("DELETE FROM tenants WHERE name <> 'default'")
        if tables:
            await connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
    finally:
        await connection.close()


async def dump(database_url: str) -> str:
    """Every row of every table as COPY writes it, for a login that no policy keeps rows from."""
    written = io.BytesIO()
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch(
            """
            SELECT schemaname, tablename FROM pg_tables
            WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
            """
        )
        for schema, table in tables:
            await connection.copy_from_table(table, schema_name=schema, output=written)
    finally:
        await connection.close()
    return written.getvalue().decode()


async def _ensure_template(connection: asyncpg.Connection, server_url: str, root: Path) -> str:
    template = f"taskflow_template_{_migrations_digest(root)}"
    await connection.execute("SELECT pg_advisory_lock($1)", _TEMPLATE_LOCK)
    try:
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", template):
            return template
        # Renamed when complete: a migration that fails or is interrupted leaves no template behind.
        unfinished = f"{template}_unfinished"
        await connection.execute(f'DROP DATABASE IF EXISTS "{unfinished}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{unfinished}"')
        await asyncio.to_thread(_migrate, _with_database(server_url, unfinished), root)
        await connection.execute(f'ALTER DATABASE "{unfinished}" RENAME TO "{template}"')
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _TEMPLATE_LOCK)
    return template


def _migrate(database_url: str, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"],
        check=False,
        cwd=root,
        env=os.environ | {"TASKFLOW_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise MigrationFailed(f"alembic upgrade head failed:\n{done.stdout}{done.stderr}")


def _migrations_digest(root: Path) -> str:
    digest = hashlib.sha256()
    folder, called = root / "migrations", root / "shared" / "taskflow" / "db" / "row_security.py"
    for path in [folder / "env.py", called, *sorted((folder / "versions").glob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
