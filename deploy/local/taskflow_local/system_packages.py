"""Servers that come from the system's packages: where they are, and how to get them."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskflow_local.command import capture
from taskflow_local.console import say
from taskflow_local.errors import StackError

# RabbitMQ's own scripts: the ones in /usr/sbin are wrappers, which switch to the user rabbitmq.
_RABBITMQ_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
# Debian puts daemons where an ordinary user's PATH does not look.
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")

_INSTALL_SCRIPT = Path(__file__).with_name("install_packages.sh")


@dataclass(frozen=True)
class Executable:
    """A server's program, the Debian package that has it, and the one place it may be, if so."""

    name: str
    package: str
    path: Path | None = None

    def find(self) -> Path | None:
        """Where it is, None if it is not installed."""
        if self.path is not None:
            return self.path if self.path.exists() else None
        found = shutil.which(self.name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN)))
        return Path(found) if found else None

    def require(self) -> Path:
        """Where it is.

        Raises:
            StackError: it is not installed.
        """
        found = self.find()
        if found is None:
            raise StackError(f"{self.name} is not installed (package {self.package})")
        return found


RABBITMQ = Executable("rabbitmq-server", "rabbitmq-server", _RABBITMQ_SCRIPTS / "rabbitmq-server")
EPMD = Executable("epmd", "erlang-base")
REDIS = Executable("redis-server", "redis-server")
ALL = (RABBITMQ, EPMD, REDIS)


def ensure_installed(executables: Sequence[Executable] = ALL) -> None:
    """Install what is missing, with apt-get, as root or through sudo.

    Raises:
        StackError: it can't be installed here; the text says what to do.
    """
    missing = sorted({item.package for item in executables if item.find() is None})
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise StackError(
            f"these servers are missing: {names}. They are installed by themselves on Debian and"
            " Ubuntu alone; install them, or start Docker, and try again"
        )
    as_root = _as_root(names)
    say(f"installing {names} (apt-get; not as system services)")
    capture([*as_root, "/bin/sh", _INSTALL_SCRIPT, *missing], Path("/"))
    still = sorted({item.package for item in executables if item.find() is None})
    if still:
        raise StackError(f"apt-get installed {' '.join(still)}, but the servers are not found")


def _as_root(names: str) -> list[str]:
    """The words before a command that make it run as root."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is not None and sys.stdin.isatty():
        return [sudo]
    if sudo is not None and _needs_no_password(sudo):
        return [sudo, "-n"]
    raise StackError(
        f"these servers are missing: {names}, and neither root nor sudo is at hand to install"
        f" them. Let an administrator run `apt-get install {names}`, or start Docker, and try again"
    )


def _needs_no_password(sudo: str) -> bool:
    try:
        capture([sudo, "-n", "true"], Path("/"))
    except StackError:
        return False
    return True
