"""What is deleted of keys, sessions and the audit log once it has served, a slice at a time.

Rows that others hold are skipped, so that nothing here waits for a frozen writer.
"""

from taskflow.db.pool import Connection
from taskflow.jobs.dispatch import SLICE

# No statement locks a row of it; what another deletes at this moment is gone as well.
_PRUNE_AUDIT_LOG = """
DELETE FROM audit_log WHERE id IN (
    SELECT id FROM audit_log WHERE created_at < now() - make_interval(days => $2)
    ORDER BY created_at LIMIT $1
)
RETURNING 1
"""


async def prune_audit_log(connection: Connection, *, days: int, limit: int = SLICE) -> int:
    """Delete what is older; how much. A full slice means more.

    PostgreSQL lets the scheduler delete nothing that is younger than 30 days.
    """
    return len(await connection.fetch(_PRUNE_AUDIT_LOG, limit, days))


# LEAST leaves out what is NULL.
_PRUNE_API_KEYS = """
WITH ended AS MATERIALIZED (
    SELECT id FROM api_keys
    WHERE least(revoked_at, expires_at) < now() - make_interval(days => $2)
    ORDER BY least(revoked_at, expires_at) LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM api_keys AS key USING ended WHERE key.id = ended.id
RETURNING 1
"""


async def prune_api_keys(connection: Connection, *, days: int, limit: int = SLICE) -> int:
    """Delete keys that have ended so long ago; how many. A full slice means more."""
    return len(await connection.fetch(_PRUNE_API_KEYS, limit, days))


_LOCK_EXPIRED = """
WITH expired AS MATERIALIZED (
    SELECT id FROM user_sessions
    WHERE expires_at < now() - make_interval(days => $2)
    ORDER BY expires_at LIMIT $1
    FOR UPDATE SKIP LOCKED
)
"""

# A session may have left a hundred thousand tokens: they must not all go in one statement. The
# inner limit has them looked up by their session; the table would be read for them otherwise.
_PRUNE_REFRESH_TOKENS = f"""
{_LOCK_EXPIRED}
DELETE FROM refresh_tokens WHERE token_hash IN (
    SELECT left_over.token_hash
    FROM expired CROSS JOIN LATERAL (
        SELECT token_hash FROM refresh_tokens WHERE session_id = expired.id LIMIT $1
    ) AS left_over LIMIT $1
)
RETURNING 1
"""

_PRUNE_SESSIONS = f"""
{_LOCK_EXPIRED}
DELETE FROM user_sessions AS session USING expired
WHERE session.id = expired.id
  AND NOT EXISTS (SELECT FROM refresh_tokens WHERE session_id = session.id)
RETURNING 1
"""


async def prune_refresh_tokens(connection: Connection, *, days: int, limit: int = SLICE) -> int:
    """Delete tokens of sessions that expired so long ago; how many. A full slice means more."""
    return len(await connection.fetch(_PRUNE_REFRESH_TOKENS, limit, days))


async def prune_sessions(connection: Connection, *, days: int, limit: int = SLICE) -> int:
    """Delete such sessions, once their tokens are gone; how many. A full slice means more."""
    return len(await connection.fetch(_PRUNE_SESSIONS, limit, days))
