"""The tables. Migrations are generated from here, and reads are composed from here."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from taskflow.jobs.quotas import USAGE_COLUMNS
from taskflow.jobs.states import (
    DISPATCHABLE,
    LIVE,
    TERMINAL,
    WAITING,
    JobEvent,
    JobState,
    Priority,
)
from taskflow.jobs.worker_state import WorkerState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _pg_enum(enum: type[JobState | JobEvent | Priority | WorkerState], name: str) -> Enum:
    return Enum(enum, name=name, values_callable=lambda members: [str(m) for m in members])


def _in_states(states: frozenset[JobState]) -> str:
    """An index predicate; sorted, so that autogeneration sees no change between runs."""
    return "state IN ({})".format(", ".join(f"'{state}'" for state in sorted(states)))


_job_state = _pg_enum(JobState, "job_state")
_timestamp = DateTime(timezone=True)

# Every table with a `tenant_id` is isolated: row-level security, by its migration.
tenants = Table(
    "tenants",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    # By a registration; else an operator has made it. It may not have jobs of every type, nor keep
    # as much.
    Column("is_registered", Boolean, nullable=False, server_default=text("false")),
)

# What a tenant may have, where it is not what the settings say; NULL: what they say, 0: any number.
tenant_quotas = Table(
    "tenant_quotas",
    metadata,
    Column("tenant_id", UUID(as_uuid=True), primary_key=True),
    Column("waiting_jobs", BigInteger),
    Column("kept_bytes", BigInteger),
    Column("running_jobs", BigInteger),
    CheckConstraint("least(waiting_jobs, kept_bytes, running_jobs) >= 0", name="not_negative"),
)

# What a tenant uses is the sum of its rows: they are added and folded, never changed. Each says
# what has become more or less, and leaves the rest at 0.
tenant_usage = Table(
    "tenant_usage",
    metadata,
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    *(Column(name, BigInteger, nullable=False, server_default=text("0")) for name in USAGE_COLUMNS),
    Index("ix_tenant_usage_tenant", "tenant_id"),
)

# No foreign keys between the hot tables: they cost a seventh of the throughput (docs/decisions),
# and nothing but `commands.delete` ever removes a job.
jobs = Table(
    "jobs",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("type", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", _pg_enum(Priority, "job_priority"), nullable=False),
    Column("state", _job_state, nullable=False),
    Column("payload", JSONB, nullable=False),
    # Counted by quotas: sizes before sealing, so that what is stored may change and they don't.
    # The attributes are what else the client has sent in words: metadata, tags, name, description;
    # the result's is NULL as long as there is none; the artifacts' is that of the attempts whose
    # end was recorded.
    Column("payload_bytes", Integer, nullable=False, server_default=text("0")),
    Column("attribute_bytes", Integer, nullable=False, server_default=text("0")),
    Column("result_bytes", Integer),
    Column("artifact_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("name", Text),
    Column("description", Text),
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    Column("unique_key", Text),
    Column("depends_on", ARRAY(UUID(as_uuid=True)), nullable=False, server_default=text("'{}'")),
    # Lets `finish` take the cheap path for the many jobs that nothing waits for.
    Column("has_dependents", Boolean, nullable=False, server_default=text("false")),
    Column("run_at", _timestamp, nullable=False),
    Column("expires_at", _timestamp),
    Column("timeout_seconds", Double),
    Column("max_attempts", Integer, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    # The number of the last attempt that may run: a retry by hand raises it by max_attempts.
    Column("attempt_limit", Integer, nullable=False),
    Column("worker_id", UUID(as_uuid=True)),
    Column("claim_token", UUID(as_uuid=True)),
    Column("lease_expires_at", _timestamp),
    # When the pointer in the broker was published; NULL: there is none, the scheduler sends one;
    # infinity: there is none until the tenant may run more (`holding`).
    Column("pointer_at", _timestamp),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("result", JSONB),
    Column("result_object", Text),
    Column("error", JSONB),
    Column("progress_percent", Double),
    Column("progress_message", Text),
    Column("checkpoint", JSONB),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Column("updated_at", _timestamp, nullable=False, server_default=func.now()),
    Column("started_at", _timestamp),
    Column("finished_at", _timestamp),
    Index("ix_jobs_newest", "tenant_id", "created_at", "id"),
    Index(
        "ix_jobs_ended_badly",
        "tenant_id",
        "created_at",
        "id",
        postgresql_where=text(_in_states(TERMINAL - {JobState.COMPLETED})),
    ),
    # Below a policy a state is no condition of an index, as comparing enums isn't leakproof; that
    # it implies an index's predicate still counts.
    Index(
        "ix_jobs_failed",
        "tenant_id",
        "created_at",
        "id",
        postgresql_where=text(f"state = '{JobState.FAILED}'"),
    ),
    # For `depends_on &&`, which isn't leakproof either, in a tenant's name.
    Index("ix_jobs_blocked", "tenant_id", postgresql_where=text(f"state = '{JobState.BLOCKED}'")),
    Index(
        "ix_jobs_undispatched",
        "run_at",
        postgresql_where=text(
            f"pointer_at IS NULL AND {_in_states(DISPATCHABLE | {JobState.SCHEDULED})}"
        ),
    ),
    # For who leaves lanes aside. It says otherwise what the index above says: by that one, which
    # the planner may take for as good, everything in those lanes would be read.
    Index(
        "ix_jobs_undispatched_lane",
        "queue",
        "priority",
        "run_at",
        postgresql_where=text(
            "coalesce(pointer_at, '-infinity') = '-infinity'"
            f" AND {_in_states(DISPATCHABLE | {JobState.SCHEDULED})}"
        ),
    ),
    Index(
        "ix_jobs_lane",
        "queue",
        "priority",
        "pointer_at",
        postgresql_where=text(_in_states(DISPATCHABLE)),
    ),
    # For who is held, the longest due first.
    Index(
        "ix_jobs_held",
        "tenant_id",
        "queue",
        "priority",
        "run_at",
        postgresql_where=text(f"pointer_at = 'infinity' AND {_in_states(DISPATCHABLE)}"),
    ),
    # For whose turn it is in a lane. Only `claim_sql` says it so.
    Index(
        "ix_jobs_turn",
        "queue",
        "priority",
        text("uuid_send(tenant_id)"),
        "pointer_at",
        postgresql_where=text(
            f"CASE WHEN {_in_states(DISPATCHABLE)} THEN pointer_at END < 'infinity'"
        ),
    ),
    Index("ix_jobs_lease", "lease_expires_at", postgresql_where=text("state = 'running'")),
    Index("ix_jobs_worker", "worker_id", postgresql_where=text("state = 'running'")),
    Index(
        "ix_jobs_expiry",
        "expires_at",
        postgresql_where=text(f"expires_at IS NOT NULL AND {_in_states(WAITING)}"),
    ),
    Index(
        "ix_jobs_blocked_on",
        "depends_on",
        postgresql_using="gin",
        postgresql_where=text("state = 'blocked'"),
    ),
    Index(
        "uq_jobs_unique_key",
        "tenant_id",
        "unique_key",
        unique=True,
        postgresql_where=text(f"unique_key IS NOT NULL AND {_in_states(LIVE)}"),
    ),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("job_id", UUID(as_uuid=True), nullable=False),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("event", _pg_enum(JobEvent, "job_event"), nullable=False),
    Column("source", _job_state),
    Column("target", _job_state, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker_id", UUID(as_uuid=True)),
    Column("detail", JSONB),
    Column("at", _timestamp, nullable=False, server_default=func.clock_timestamp()),
    Index("ix_job_events_job", "job_id", "id"),
)

# A row is written when its attempt ends; the running one is read from `jobs`.
job_attempts = Table(
    "job_attempts",
    metadata,
    Column("job_id", UUID(as_uuid=True), nullable=False),
    Column("number", Integer, nullable=False),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("worker_id", UUID(as_uuid=True)),
    Column("outcome", Text, nullable=False),
    Column("error", JSONB),
    Column("started_at", _timestamp, nullable=False),
    Column("finished_at", _timestamp, nullable=False),
    PrimaryKeyConstraint("job_id", "number"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("path", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("job_id", UUID(as_uuid=True), nullable=False),
    # What the first answer said, for its replays.
    Column("state", _job_state, nullable=False),
    Column("deduplicated", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "path", "key"),
    Index("ix_idempotency_keys_age", "created_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("state", _pg_enum(WorkerState, "worker_state"), nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("job_types", ARRAY(Text), nullable=False),
    Column("concurrency", Integer, nullable=False),
    # Per lane ("queue.priority"), the newest pointer_at that this worker has claimed.
    Column("watermarks", JSONB, nullable=False, server_default=text("'{}'")),
    Column("started_at", _timestamp, nullable=False, server_default=func.now()),
    Column("heartbeat_at", _timestamp, nullable=False, server_default=func.now()),
)

job_types = Table(
    "job_types",
    metadata,
    Column("name", Text, primary_key=True),
    Column("schema", JSONB, nullable=False),
    Column("queue", Text, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_seconds", Double),
    Column("description", Text),
    Column("registered_at", _timestamp, nullable=False, server_default=func.now()),
    Column("updated_at", _timestamp, nullable=False, server_default=func.now()),
)

# A stretch of an object that holds one attempt's lines. An object may hold many jobs' lines.
log_chunks = Table(
    "log_chunks",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("job_id", UUID(as_uuid=True), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("object_key", Text, nullable=False),
    Column("byte_offset", BigInteger, nullable=False),
    Column("byte_length", BigInteger, nullable=False),
    Column("line_count", Integer, nullable=False),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Index("ix_log_chunks_job", "job_id", "id"),
    UniqueConstraint("object_key", "byte_offset"),
)

# What deleted jobs have left in the object store; written in the transaction that deletes them.
pending_erasures = Table(
    "pending_erasures",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("job_id", UUID(as_uuid=True), nullable=False),
    Column("job_created_at", _timestamp, nullable=False),
    # [object key, byte offset, byte length] of each.
    Column("log_ranges", JSONB, nullable=False),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("due_at", _timestamp, nullable=False, server_default=func.now()),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Index("ix_pending_erasures_due", "due_at"),
)

# A key's secret is known to its owner alone. A key that is replaced or revoked stays, to be read.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    # The part of the key that names it, by which it is looked up.
    Column("key_id", Text, nullable=False, unique=True),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_by_kind", Text, nullable=False),
    Column("created_by_id", Text, nullable=False),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Column("expires_at", _timestamp),
    # Ahead while another key takes its place.
    Column("revoked_at", _timestamp),
    Column("replaces", UUID(as_uuid=True)),
    Column("last_used_at", _timestamp),
    Index("ix_api_keys_newest", "tenant_id", "created_at", "id"),
    Index("ix_api_keys_end", text("least(revoked_at, expires_at)")),
)

# Who did what; written in the transaction that does it.
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("actor_kind", Text, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("resource_kind", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("before", JSONB),
    Column("after", JSONB),
    Column("client_address", Text),
    Column("request_id", Text),
    Column("created_at", _timestamp, nullable=False, server_default=func.clock_timestamp()),
    Index("ix_audit_log_newest", "tenant_id", "created_at", "id"),
    Index("ix_audit_log_actor", "tenant_id", "actor_id", "created_at", "id"),
    Index("ix_audit_log_resource", "tenant_id", "resource_id", "created_at", "id"),
    Index("ix_audit_log_age", "created_at"),
)

# Beside the hot tables foreign keys cost nothing that is noticed. Addresses are in lower case.
users = Table(
    "users",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("email", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Column("disabled_at", _timestamp),
)

# What began with a password: the family of refresh tokens that came of it. It lives until
# `expires_at` at most, whatever is refreshed.
user_sessions = Table(
    "user_sessions",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column(
        "user_id",
        UUID(as_uuid=True),
        ForeignKey("users.id", name="fk_user_sessions_user", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("scopes", ARRAY(Text), nullable=False),
    # Where it began: an address that has signed in is no stranger to its account.
    Column("address", Text, nullable=False),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Column("expires_at", _timestamp, nullable=False),
    Column("ended_at", _timestamp),
    Column("end_reason", Text),
    Index("ix_user_sessions_user", "user_id", "created_at"),
    Index("ix_user_sessions_expiry", "expires_at"),
)

# Each token of a session, as a SHA-256; the one that has not been used is the current one. The
# others stay for as long as the session: who comes with one of them has stolen it, or was robbed.
refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column(
        "session_id",
        UUID(as_uuid=True),
        ForeignKey("user_sessions.id", name="fk_refresh_tokens_session", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Column("used_at", _timestamp),
    Index("ix_refresh_tokens_session", "session_id"),
)
