"""Who acts, and what it may do."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """A right that a key or a user has, or lacks; each route names the one that it needs."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    QUEUES_WRITE = "queues:write"
    """Reserved: no route needs it yet."""
    ADMIN = "admin"
    """Keys and the audit log; it holds all the others."""


ALL_SCOPES = frozenset(Scope)


class ActorKind(StrEnum):
    """How a caller has said who it is."""

    KEY = "key"
    USER = "user"
    SETTINGS = "settings"
    """By the key of the settings."""
    OPERATOR = "operator"
    """At the database, by `taskflow keys`."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it, as the audit log names it."""

    kind: ActorKind
    id: str
    """A key's or a user's id; an operator's login at the database."""
