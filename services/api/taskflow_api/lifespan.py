"""Everything that lives as long as the process: born here, passed on, closed here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from taskflow.artifacts import ArtifactStore
from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.engine import open_engine
from taskflow.db.pool import Database, IntakeDatabase, TenantDatabase, open_database
from taskflow.db.roles import DatabaseRole
from taskflow.jobs.quotas import DefaultQuotas
from taskflow.object_store import ObjectStore
from taskflow.redis_client import open_redis
from taskflow.relay import Relay
from taskflow.sealing.ring import SealingKeyRing
from taskflow.settings import ApiSettings
from taskflow_api.auth import ApiKeys
from taskflow_api.cache.cache import Cache
from taskflow_api.cache.seals import Seals
from taskflow_api.cache.store import CacheStore
from taskflow_api.database_access import Lookups, Reads, Writes
from taskflow_api.health import CHECK_SECONDS, HealthChecks
from taskflow_api.job_documents import JobDocuments
from taskflow_api.job_rows import JobRows
from taskflow_api.job_type_rights import JobTypeRights
from taskflow_api.job_types import JobTypes
from taskflow_api.late_commits import LateCommits
from taskflow_api.log_reader import LogReader
from taskflow_api.rate_limits.limits import RateLimits
from taskflow_api.results import Results
from taskflow_api.stored_keys import KeyUses, StoredKeys
from taskflow_api.submissions import WRITERS, Submissions
from taskflow_api.users.token_keys import token_secret_of
from taskflow_api.users.users import Users, open_users
from taskflow_api.waiting import Waiters

RELAY_STOP_SECONDS = 5.0
"""How long pointers of committed jobs may still be sent once the process stops."""

OWN_POOL_SIZE = 4
"""Connections for what the API does in nobody's name, beside those of requests."""

_APPLICATION_NAME = "taskflow-api"


@dataclass(frozen=True, slots=True)
class Resources:
    """What routes work with."""

    api_keys: ApiKeys
    users: Users
    ring: SealingKeyRing
    rate_limits: RateLimits
    reads: Reads
    writes: Writes
    relay: Relay
    submissions: Submissions
    quotas: DefaultQuotas
    job_types: JobTypes
    job_type_rights: JobTypeRights
    documents: JobDocuments
    job_rows: JobRows
    results: Results
    waiters: Waiters
    object_store: ObjectStore
    log_reader: LogReader
    health: HealthChecks
    worker_lost_after_seconds: float


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def lifespan_of(settings: ApiSettings) -> Lifespan:
    """The lifespan of an app; it connects to nothing, so that it begins whatever is away."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.resources = await _open(settings, stack)
            yield

    return lifespan


async def _open(settings: ApiSettings, stack: AsyncExitStack) -> Resources:
    """Closed in reverse: submissions drain before the relay, the relay before its servers."""
    own, tenants, intake = await _open_databases(settings, stack)
    reads = await _open_reads(settings, stack)
    object_store = _open_object_store(settings, stack)
    lookups = Lookups(own)
    stored_keys = StoredKeys(lookups)
    stack.push_async_callback(stored_keys.close)
    key_uses = KeyUses(own)
    stack.push_async_callback(key_uses.close)
    redis = _open_redis(settings, stack)
    token_secret = token_secret_of(settings)
    store = CacheStore(redis)
    cache = _open_cache(settings, store, Seals(token_secret))
    stack.push_async_callback(cache.close)
    # They come first in every request: none shall wait for the same Redis twice.
    rate_limits = RateLimits(redis, settings, on_away=store.suspect)
    stack.push_async_callback(rate_limits.close)
    broker, relay = _open_relay(settings, own, stack)
    quotas = _quotas(settings)
    late_commits = LateCommits(own, relay)
    size = settings.submission_batch_size
    submissions = Submissions(intake, tenants, relay, late_commits, batch_size=size, quotas=quotas)
    stack.push_async_callback(submissions.close)
    writes = Writes(tenants)
    ring = SealingKeyRing.of(settings.payload_keys.get_secret_value())
    users = open_users(
        settings,
        stack,
        lookups=lookups,
        writes=writes,
        relay=relay,
        rate_limits=rate_limits,
        ring=ring,
        token_secret=token_secret,
    )
    job_types = JobTypes(reads)
    job_rows = JobRows(reads)
    waiters = Waiters(own)
    stack.callback(waiters.close)
    return Resources(
        api_keys=ApiKeys(settings.api_key.get_secret_value(), stored_keys, key_uses),
        users=users,
        ring=ring,
        rate_limits=rate_limits,
        reads=reads,
        writes=writes,
        relay=relay,
        submissions=submissions,
        quotas=quotas,
        job_types=job_types,
        job_type_rights=JobTypeRights(lookups, settings.registration_job_types),
        documents=JobDocuments(job_rows, job_types, ring),
        job_rows=job_rows,
        results=Results(ArtifactStore(object_store), cache),
        waiters=waiters,
        object_store=object_store,
        log_reader=LogReader(object_store),
        health=HealthChecks(own, broker, redis, object_store),
        worker_lost_after_seconds=settings.worker_lost_after_seconds,
    )


def _open_redis(settings: ApiSettings, stack: AsyncExitStack) -> Redis:
    redis = open_redis(
        settings.redis_url.get_secret_value(),
        timeout_seconds=CHECK_SECONDS,
        # A connection from before Redis was restarted says nothing about it: try a new one.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    stack.push_async_callback(redis.aclose)
    return redis


def _open_relay(
    settings: ApiSettings, own: Database, stack: AsyncExitStack
) -> tuple[Broker, Relay]:
    broker = Broker(settings.amqp_url.get_secret_value(), name=_APPLICATION_NAME)
    broker.start()
    stack.push_async_callback(broker.close)
    publisher = Publisher(broker, timeout_seconds=settings.amqp_publish_timeout_seconds)
    relay = Relay(publisher, own)
    relay.start()
    stack.push_async_callback(relay.stop, RELAY_STOP_SECONDS)
    return broker, relay


def _quotas(settings: ApiSettings) -> DefaultQuotas:
    return DefaultQuotas(
        waiting_jobs=settings.quota_waiting_jobs,
        kept_bytes=settings.quota_kept_bytes,
        registered_kept_bytes=settings.registration_quota_kept_bytes,
    )


async def _open_databases(
    settings: ApiSettings, stack: AsyncExitStack
) -> tuple[Database, TenantDatabase, IntakeDatabase]:
    own = await _open_database(settings, DatabaseRole.API, OWN_POOL_SIZE)
    tenants = await _open_database(settings, DatabaseRole.TENANT, settings.database_pool_size)
    intake = await _open_database(settings, DatabaseRole.INTAKE, WRITERS, steady_plans=True)

    async def close() -> None:
        # At once: a silent server keeps each for its whole patience.
        await asyncio.gather(own.close(), tenants.close(), intake.close())

    stack.push_async_callback(close)
    return own, TenantDatabase(tenants), IntakeDatabase(intake)


async def _open_database(
    settings: ApiSettings, role: DatabaseRole, pool_size: int, *, steady_plans: bool = False
) -> Database:
    return await open_database(
        settings.database_url.get_secret_value(),
        role=role,
        application_name=_APPLICATION_NAME,
        pool_size=pool_size,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        acquire_timeout_seconds=settings.database_acquire_timeout_seconds,
        steady_plans=steady_plans,
    )


async def _open_reads(settings: ApiSettings, stack: AsyncExitStack) -> Reads:
    engine = await stack.enter_async_context(
        open_engine(
            settings.database_url.get_secret_value(),
            role=DatabaseRole.TENANT,
            pool_size=settings.database_pool_size,
            statement_timeout_seconds=settings.database_statement_timeout_seconds,
            pool_timeout_seconds=settings.database_acquire_timeout_seconds,
        )
    )
    return Reads(engine)


def _open_cache(settings: ApiSettings, store: CacheStore, seals: Seals) -> Cache:
    return Cache(
        store,
        seals,
        seconds=settings.cache_seconds,
        max_bytes=settings.cache_entry_max_bytes,
        room_bytes=settings.cache_process_max_bytes,
    )


def _open_object_store(settings: ApiSettings, stack: AsyncExitStack) -> ObjectStore:
    object_store = ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        timeout_seconds=settings.s3_timeout_seconds,
        ca_file=settings.tls_ca_file,
    )
    stack.push_async_callback(object_store.close)
    return object_store
