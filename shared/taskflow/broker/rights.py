"""What each service may do in the broker, as RabbitMQ's permissions: it needs no more than this.

Who may configure a queue may delete it too, so that schedulers alone declare anything: see
docs/decisions/0003-broker.md. RabbitMQ asks for no right where something is only looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskflow.broker.topology import (
    CONTROL_EXCHANGE,
    DEAD_EXCHANGE,
    EVENTS_EXCHANGE,
    JOBS_EXCHANGE,
    retry_exchange,
)
from taskflow.jobs.backoff import LADDER_SECONDS
from taskflow.jobs.states import Priority

NOTHING = "^$"
# A dot is written [.], so that a pattern means itself in JSON and in a shell.
_LANE = f"[A-Za-z0-9_-]{{1,64}}[.]({'|'.join(Priority)})"


def _any_of(*names: str) -> str:
    return f"^({'|'.join(names).replace('.', '[.]')})$"


@dataclass(frozen=True, slots=True)
class BrokerRights:
    """Regular expressions for names of exchanges and queues, as `rabbitmqctl` takes them.

    Permissions by topic could say which routing keys a message may have. There are none: RabbitMQ
    4.3 takes no definitions with one for an exchange that isn't there yet, and what has an odd key
    comes to lie among the unrouted, where a scheduler looks at it.
    """

    configure: str
    write: str
    read: str

    def permissions(self, user: str, virtual_host: str) -> dict[str, Any]:
        """An entry of `permissions` in RabbitMQ's definitions."""
        rights = {"configure": self.configure, "write": self.write, "read": self.read}
        return {"user": user, "vhost": virtual_host, **rights}


_OURS = f"^({JOBS_EXCHANGE}([.].+)?|{CONTROL_EXCHANGE}|{EVENTS_EXCHANGE})$"

BROKER_RIGHTS: Mapping[str, BrokerRights] = {
    # Puts pointers into lanes.
    "api": BrokerRights(NOTHING, _any_of(JOBS_EXCHANGE), NOTHING),
    # Takes them from lanes; sends retries and failures on.
    "consumer": BrokerRights(
        NOTHING,
        _any_of(JOBS_EXCHANGE, DEAD_EXCHANGE, *(retry_exchange(rung) for rung in LADDER_SECONDS)),
        f"^jobs[.]{_LANE}$",
    ),
    # Declares everything, which with bindings and dead-lettering takes all three rights.
    "scheduler": BrokerRights(_OURS, _OURS, _OURS),
}
"""By the service's name."""
