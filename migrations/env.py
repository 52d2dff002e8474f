"""Alembic's entry: one history for the one database, run by `make migrate`."""

import asyncio
from collections.abc import Iterable

from alembic import context
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from taskflow.db.engine import migrating_engine
from taskflow.db.models import metadata
from taskflow.errors import ConfigurationError
from taskflow.settings import MigrationSettings, exit_with, load_settings
from taskflow.tls import certificate_problem

LOCK_NOT_AVAILABLE = "55P03"
LOCK_ID = 7_083_912_114_001  # arbitrary; two migrating processes take turns


def next_revision(
    context_: MigrationContext,
    revision: str | Iterable[str | None] | Iterable[str],
    directives: list[MigrationScript],
) -> None:
    """Number revisions 0001, 0002, ... so that they compare as text."""
    del context_, revision
    for directive in directives:
        heads = context.script.get_heads()
        number = int(heads[0]) + 1 if heads else 1
        directive.rev_id = f"{number:04d}"


def run(connection: Connection) -> None:
    """Run the migrations on a connection, one process at a time."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_server_default=True,
        transaction_per_migration=True,
        process_revision_directives=next_revision,
    )
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK_ID})")
    connection.commit()
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({LOCK_ID})")
        connection.commit()


async def migrate(settings: MigrationSettings) -> None:
    """Connect as the settings say, and run."""
    engine = migrating_engine(settings.database_url.get_secret_value())
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


try:
    asyncio.run(migrate(load_settings(MigrationSettings)))
except ConfigurationError as error:
    exit_with(error)
except DBAPIError as error:
    if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
        raise
    held = "somebody reads or writes a table that a migration changes"
    exit_with(ConfigurationError(f"{held}; nothing was changed by it: run it again"))
except OSError as error:
    why = certificate_problem(error) or str(error) or type(error).__name__
    exit_with(ConfigurationError(f"TASKFLOW_DATABASE_URL: {why}"))
