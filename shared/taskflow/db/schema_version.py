"""Whether the database has the migrations that this code needs."""

from taskflow.db.pool import Connection
from taskflow.errors import SchemaBehind

SCHEMA_REVISION = "0008"
"""The newest migration; revisions are zero-padded numbers, so they compare as text."""


async def check_schema(connection: Connection) -> None:
    """Pass when the database is at this code's revision or a later one.

    Raises:
        SchemaBehind: migrations are missing.
    """
    # A database ahead of the code is what a rolling upgrade looks like from the old side.
    # One behind has no roles yet, or they may not read this table of it.
    readable = await connection.fetchval(
        "SELECT has_table_privilege(to_regclass('alembic_version'), 'SELECT')"
    )
    found = None
    if readable:
        found = await connection.fetchval("SELECT version_num FROM alembic_version")
    if found is None or found < SCHEMA_REVISION:
        raise SchemaBehind(found, SCHEMA_REVISION)
