"""`taskflow keys`: a key for any tenant, made at the database by its owner.

It is how a further tenant gets its first key, and how one that has lost them all gets in again.
"""

import argparse
import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from taskflow.access.api_keys import MadeKey, WantedKey, create
from taskflow.access.audit_log import Origin
from taskflow.access.scopes import Actor, ActorKind, Scope
from taskflow.access.tenants import create_tenant, find_tenant
from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS
from taskflow.db.tenants import Session, TenantConnection, begin_for
from taskflow.errors import TaskFlowError
from taskflow.settings import DatabaseSettings
from taskflow.tls import certificate_problem

LONGEST_DAYS = 36_500
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class NotDone(TaskFlowError):
    """Nothing was made; the text says why, and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be said on the command line."""
    create = parser.add_subparsers(dest="verb", required=True, metavar="verb").add_parser(
        "create", help="make a key, and print it this once"
    )
    create.add_argument("--tenant", type=_tenant, required=True, help="whose it is, by name")
    create.add_argument(
        "--new-tenant", action="store_true", help="make the tenant, which must not be there yet"
    )
    create.add_argument("--name", type=_key_name, required=True, help="what the key is for")
    create.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in Scope],
        help="what it may do; repeatable (default: admin, which holds all the others)",
    )
    create.add_argument(
        "--expires-in-days", type=_days, metavar="N", help="when it ends (default: never)"
    )


def _tenant(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("must be 1 to 63 of a-z, 0-9 and -, and not begin with -")
    return text


def _key_name(text: str) -> str:
    if not 1 <= len(text) <= 128 or not text.isprintable():  # noqa: PLR2004 - as over HTTP
        raise argparse.ArgumentTypeError("must be 1 to 128 printable characters")
    return text


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= (days := int(text)) <= LONGEST_DAYS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {LONGEST_DAYS}")
    return days


def run(arguments: argparse.Namespace, settings: DatabaseSettings) -> int:
    """Make the key and print it; 1 with a line that says why where it can't be made."""
    try:
        made = asyncio.run(_create(arguments, settings))
    except NotDone as error:
        sys.stderr.write(f"taskflow: {error}\n")
        return 1
    sys.stderr.write(f"The key {made.id} of the tenant {arguments.tenant}, shown this once:\n")
    sys.stdout.write(f"{made.key.text}\n")
    return 0


async def _create(arguments: argparse.Namespace, settings: DatabaseSettings) -> MadeKey:
    try:
        session = await asyncpg.connect(
            settings.database_url.get_secret_value(),
            timeout=settings.database_acquire_timeout_seconds,
            command_timeout=settings.database_statement_timeout_seconds,
            server_settings={"application_name": "taskflow-keys"},
        )
        try:
            return await _create_in(session, arguments)
        finally:
            await session.close()
    except asyncpg.InsufficientPrivilegeError as error:
        raise NotDone(
            f"{error}. TASKFLOW_DATABASE_URL must name the login that owns the tables, the one"
            " that migrates."
        ) from error
    except asyncpg.UndefinedTableError as error:
        raise NotDone("the database lacks migrations. Run 'make migrate'.") from error
    except (*TRANSIENT_ERRORS, *REFUSALS) as error:
        said = certificate_problem(error) or str(error) or type(error).__name__
        raise NotDone(f"TASKFLOW_DATABASE_URL: {said}") from error


async def _create_in(session: Session, arguments: argparse.Namespace) -> MadeKey:
    login = await session.fetchval("SELECT session_user::text")
    origin = Origin(Actor(ActorKind.OPERATOR, login))
    if arguments.new_tenant:
        tenant_id = await _new_tenant(session, arguments.tenant, origin)
    else:
        tenant_id = await _known_tenant(session, arguments.tenant)
    days = arguments.expires_in_days
    wanted = WantedKey(
        arguments.name,
        set(arguments.scope or [Scope.ADMIN.value]),
        None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    return await create(TenantConnection(session, begin_for(tenant_id)), tenant_id, wanted, origin)


async def _new_tenant(session: Session, name: str, origin: Origin) -> UUID:
    tenant_id = uuid7()
    try:
        await create_tenant(session, tenant_id, name, origin)
    except asyncpg.UniqueViolationError as error:
        raise NotDone(f"there is a tenant {name} already: leave --new-tenant out.") from error
    return tenant_id


async def _known_tenant(session: Session, name: str) -> UUID:
    tenant_id = await find_tenant(session, name)
    if tenant_id is None:
        raise NotDone(f"there is no tenant {name}; --new-tenant makes it.")
    return tenant_id
