"""TaskFlow's own processes."""

import http.client
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskflow_local.component import Program
from taskflow_local.ports import LOOPBACK, Port

# A service that is told to stop at the end of its grace still has its connections to close.
_STOP_MARGIN_SECONDS = 15

# What a service needs to find out that it can't start, on a busy machine: most of it are imports.
_STAYS_UP_SECONDS = 4


@dataclass(frozen=True)
class Service:
    """`python -m <module>` in the checkout, where it reads .env; `readyz_port` if it is HTTP.

    `environment` wins over .env.
    """

    name: str
    module: str
    checkout: Path
    readyz_port: Port | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    grace_seconds: float = 0
    start_timeout_seconds: float = 60

    def ports(self) -> Sequence[Port]:
        """The HTTP port, if it has one."""
        return [] if self.readyz_port is None else [self.readyz_port]

    def prepare(self) -> None:
        """Nothing: its data is the servers'."""

    def programs(self) -> Sequence[Program]:
        """The one process."""
        return [
            Program(
                self.name,
                [sys.executable, "-m", self.module],
                self.checkout,
                {"PYTHONUNBUFFERED": "1", **self.environment},
                stays_up_seconds=_STAYS_UP_SECONDS if self.readyz_port is None else 0,
                stop_wait_seconds=int(self.grace_seconds) + _STOP_MARGIN_SECONDS,
            )
        ]

    def is_ready(self) -> bool:
        """Whether /readyz is green; a service without HTTP is ready when it stays up."""
        return self.readyz_port is None or is_green(self.readyz_port.number)


def is_green(port: int) -> bool:
    """Whether the API on this port of loopback says that it is ready."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
