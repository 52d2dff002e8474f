"""Row-level security for a table, as a migration says it.

Migrations that have run are history: what they call here must go on meaning the same.
"""

from collections.abc import Iterable

from taskflow.db.roles import DatabaseRole

# Read once a statement, and an empty text once a transaction that set it has ended. One tenant is
# compared with `=`, which the planner merges with the query's own `tenant_id = $1`; several in a
# way that no index serves, or it would take all that they own for less than the rows that are asked
# for. Either way it has the plan that it would have without the policy.
_TENANT = "(SELECT nullif(current_setting('taskflow.tenant', true), '')::uuid)"
_TENANTS = "(SELECT nullif(current_setting('taskflow.tenants', true), '')::uuid[])"


def isolate(
    table: str,
    *,
    column: str = "tenant_id",
    services: Iterable[DatabaseRole],
    intake: bool = False,
) -> list[str]:
    """The statements by which a table's rows are their tenants' alone.

    `services` see every row, as far as they are granted anything; `intake`: batches of submissions
    write it. Nobody else sees any row, the table's owner included, who sees what the services do
    as a member of their roles: without one a backup has none either.
    """
    statements = [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        _policy(table, "tenants_own", DatabaseRole.TENANT, f"{column} = {_TENANT}"),
    ]
    if intake:
        own = f"array_position({_TENANTS}, {column}) IS NOT NULL"
        statements.append(_policy(table, "intake_own", DatabaseRole.INTAKE, own))
    if names := ", ".join(services):
        statements.append(_policy(table, "services_all", names, "true"))
    return statements


def deletes_only(table: str, role: DatabaseRole, rows: str) -> str:
    """The statement by which a service deletes of an isolated table nothing but these rows.

    The owner, who is a member of its role, is bound by it as well.
    """
    return f"CREATE POLICY kept ON {table} AS RESTRICTIVE FOR DELETE TO {role} USING ({rows})"


def _policy(table: str, name: str, roles: str, rows: str) -> str:
    return f"CREATE POLICY {name} ON {table} TO {roles} USING ({rows}) WITH CHECK ({rows})"


def expose(table: str) -> list[str]:
    """The statements that take `isolate` back."""
    return [
        f"DROP POLICY tenants_own ON {table}",
        f"DROP POLICY IF EXISTS intake_own ON {table}",
        f"DROP POLICY IF EXISTS services_all ON {table}",
        f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    ]
