"""Two ways into PostgreSQL: SQLAlchemy for reads that are composed, asyncpg for the hot writes."""

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def sqlalchemy_url(database_url: str) -> str:
    """The URL with the driver that SQLAlchemy is to use."""
    _scheme, _, rest = database_url.partition("://")
    return f"postgresql+asyncpg://{rest}"


def create_engine(
    database_url: str,
    *,
    pool_size: int,
    statement_timeout_seconds: float,
    pool_timeout_seconds: float,
) -> AsyncEngine:
    """An engine whose pool, waiting and statements all have their limits; times in seconds."""
    return create_async_engine(
        sqlalchemy_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout_seconds,
        pool_pre_ping=True,
        connect_args={
            "timeout": pool_timeout_seconds,
            "command_timeout": statement_timeout_seconds,
            "server_settings": {
                "application_name": "taskflow",
                "statement_timeout": str(int(statement_timeout_seconds * 1000)),
            },
        },
    )
