"""Whether PostgreSQL, the object store and Redis are there and do what they are for."""

import contextlib
import uuid
from collections.abc import AsyncIterator

import asyncpg

from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS
from taskflow.db.roles import DatabaseRole, connect_as
from taskflow.db.schema_version import SCHEMA_REVISION, check_schema
from taskflow.db.tenants import Session
from taskflow.doctor.diagnosis import Diagnosis, fail, ok, unseen
from taskflow.errors import ObjectMissing, SchemaBehind, ServiceUnavailable
from taskflow.object_store import ObjectStore
from taskflow.settings import DatabaseSettings, ObjectStoreSettings
from taskflow.tls import certificate_problem

REDIS_SECONDS = 3.0
_PROBE_PREFIX = "doctor/"

DATABASE_ERRORS: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, *REFUSALS)
"""What a PostgreSQL that is away, slow or closed to us makes a look at it raise."""


@contextlib.asynccontextmanager
async def open_connection(
    settings: DatabaseSettings, *, statement_timeout_seconds: float
) -> AsyncIterator[Session]:
    """A connection of the doctor's own, for reading only.

    Raises:
        ServiceUnavailable: PostgreSQL doesn't answer or refuses us.
    """
    try:
        connection = await connect_as(
            DatabaseRole.SCHEDULER,
            settings.database_url.get_secret_value(),
            timeout=settings.database_acquire_timeout_seconds,
            # The server's own limit comes first; this one is for a server that is frozen.
            command_timeout=statement_timeout_seconds + 1,
            server_settings={
                "application_name": "taskflow-doctor",
                "statement_timeout": str(round(statement_timeout_seconds * 1000)),
                "default_transaction_read_only": "on",
            },
        )
    except DATABASE_ERRORS as error:
        raise ServiceUnavailable("PostgreSQL", said(error)) from error
    try:
        yield connection
    finally:
        # A server that has gone meanwhile must not keep the doctor from reporting it.
        connection.terminate()


async def check_database(connection: Session) -> Diagnosis:
    """Whether the tables are those that this code needs."""
    try:
        await check_schema(connection)
    except SchemaBehind as error:
        return fail("PostgreSQL", str(error), "Run `make migrate`.")
    return ok("PostgreSQL", f"answers, schema at {SCHEMA_REVISION} or later")


async def check_object_store(settings: ObjectStoreSettings) -> Diagnosis:
    """Whether the bucket is there and what is written can be read and deleted."""
    store = open_object_store(settings)
    key = f"{_PROBE_PREFIX}{uuid.uuid4()}"
    try:
        # First: a write would make a bucket that is missing.
        await store.ping()
        await store.put(key, key.encode())
        read = await store.get(key)
        await store.delete([key])
    except (ServiceUnavailable, ObjectMissing) as error:
        return fail(
            "S3",
            str(error),
            "Start the object store, or mend TASKFLOW_S3_*; jobs run meanwhile, their logs and"
            " large results wait.",
        )
    finally:
        await store.close()
    if read != key.encode():
        return fail("S3", "gives back other bytes than were written", "Look at the store's disks.")
    return ok("S3", f"answers, bucket {settings.s3_bucket!r} is there and writable")


def open_object_store(settings: ObjectStoreSettings) -> ObjectStore:
    """The object store of these settings, not connected yet."""
    return ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        timeout_seconds=settings.s3_timeout_seconds,
        ca_file=settings.tls_ca_file,
    )


async def check_redis(url: str) -> Diagnosis:
    """Whether Redis answers."""
    try:
        # The services that don't speak to Redis are installed without its client.
        from redis.exceptions import RedisError

        from taskflow.redis_client import open_redis
    except ImportError:
        return unseen("Redis", "its client is not installed", "Install `taskflow[doctor]`.")
    client = open_redis(url, timeout_seconds=REDIS_SECONDS)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        return fail("Redis", said(error), "Start Redis, or mend TASKFLOW_REDIS_URL; jobs go on.")
    finally:
        await client.aclose()
    return ok("Redis", "answers")


def not_answered(subject: str, error: BaseException) -> Diagnosis:
    """What one of `DATABASE_ERRORS` means for the look that it ended."""
    if isinstance(error, asyncpg.QueryCanceledError):
        return unseen(
            subject,
            "took too long to look at",
            "Give it longer (--timeout), or look at fewer jobs (--jobs).",
        )
    return unseen(
        subject,
        f"PostgreSQL gave no answer: {said(error)}",
        "Run the doctor again when PostgreSQL answers.",
    )


def said(error: BaseException) -> str:
    """An error's own words, or its name where it has none."""
    return certificate_problem(error) or str(error) or type(error).__name__
