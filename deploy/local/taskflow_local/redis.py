"""Redis from the system's package."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskflow_local import system_packages
from taskflow_local.component import Program
from taskflow_local.ports import LOOPBACK, Port
from taskflow_local.private_file import write_private


@dataclass(frozen=True)
class Redis:
    """A server with a password; `throwaway` data is never written to disk."""

    directory: Path
    port: int
    password: str = field(repr=False)
    throwaway: bool = False
    name: str = "redis"
    start_timeout_seconds: float = 30

    def ports(self) -> Sequence[Port]:
        """The one port."""
        return [Port(self.port, "Redis", "TASKFLOW_REDIS_PORT")]

    def prepare(self) -> None:
        """Write the configuration."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._config_file, self._config())

    def programs(self) -> Sequence[Program]:
        """The server."""
        command = [system_packages.REDIS.require(), self._config_file]
        return [Program(self.name, command, self.directory)]

    def is_ready(self) -> bool:
        """Whether it takes the password and has loaded its data."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\nQUIT\r\n".encode())
                with connection.makefile("rb") as answers:
                    return answers.read() == b"+OK\r\n+PONG\r\n+OK\r\n"
        except OSError:
            return False

    @property
    def _config_file(self) -> Path:
        return self.directory / "redis.conf"

    def _config(self) -> str:
        save = 'save ""' if self.throwaway else "save 60 1"
        # Tests take a numbered database each.
        databases = 1024 if self.throwaway else 16
        return (
            f"bind {LOOPBACK}\nport {self.port}\nrequirepass {self.password}\n"
            f'daemonize no\nsupervised no\ndir "{self.directory}"\n'
            f"databases {databases}\n{save}\n"
            # The cache shall take the room of what is older in it, not all of this machine's.
            "maxmemory 256mb\nmaxmemory-policy volatile-lru\n"
        )
