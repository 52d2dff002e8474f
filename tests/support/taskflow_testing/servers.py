"""Where the servers for tests are: the environment says it, else the file of those that run."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from taskflow_testing.errors import NoTestServers

_PREFIX = "TASKFLOW_TEST_"


@dataclass(frozen=True)
class TestServers:
    """How to reach every server as its administrator."""

    __test__ = False

    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    rabbitmq_management_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str = field(repr=False)


def find_servers(root: Path, environment: Mapping[str, str] = os.environ) -> TestServers:
    """The servers that `TASKFLOW_TEST_*` names, or those that run for the checkout at `root`.

    Raises NoTestServers when a variable is in neither place.
    """
    values = _read(root / ".taskflow" / "test" / "env") | dict(environment)
    names = {item.name: _PREFIX + item.name.upper() for item in fields(TestServers)}
    missing = [variable for variable in names.values() if not values.get(variable)]
    if missing:
        raise NoTestServers(
            f"no test servers: {', '.join(missing)} not set. Start them with `make test-up`"
            " (they stay until `make test-down`), or run all tests with `make test`, which starts"
            " its own."
        )
    return TestServers(**{name: values[variable] for name, variable in names.items()})


def require_reachable(server: str, url: str) -> None:
    """Raise NoTestServers unless something accepts connections at the host and port of `url`."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5).close()
    except OSError as error:
        raise NoTestServers(
            f"{server} for tests does not answer at {parts.hostname}:{parts.port} ({error});"
            " start the servers with `make test-up`"
        ) from None


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return dict(line.split("=", 1) for line in path.read_text().splitlines())
