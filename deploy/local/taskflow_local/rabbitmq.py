"""RabbitMQ from the system's package, apart from any broker that runs as a system service."""

import base64
import hashlib
import http.client
import json
import secrets
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskflow.broker.rights import BrokerRights
from taskflow_local import system_packages
from taskflow_local.component import Program
from taskflow_local.ports import LOOPBACK, Port, accepts_connections
from taskflow_local.private_file import write_private

_EVERYTHING = BrokerRights(".*", ".*", ".*")


@dataclass(frozen=True)
class BrokerLogin:
    """A way in for a service, which may do nothing but what it has rights to."""

    name: str
    password: str = field(repr=False)
    rights: BrokerRights


@dataclass(frozen=True)
class RabbitMQ:
    """A broker with one virtual host, a user who administers it, and further logins; no guest.

    One with `throwaway` data is stopped at once, without the seconds that it takes to close down.
    """

    directory: Path
    port: int
    management_port: int
    prometheus_port: int
    epmd_port: int
    distribution_port: int
    user: str
    password: str = field(repr=False)
    virtual_host: str
    logins: Sequence[BrokerLogin] = ()
    throwaway: bool = False
    name: str = "rabbitmq"
    start_timeout_seconds: float = 120

    def ports(self) -> Sequence[Port]:
        """AMQP's first."""
        prefix = "TASKFLOW_RABBITMQ"
        return [
            Port(self.port, "RabbitMQ", f"{prefix}_PORT"),
            Port(self.management_port, "RabbitMQ's management", f"{prefix}_MANAGEMENT_PORT"),
            Port(self.prometheus_port, "RabbitMQ's metrics", f"{prefix}_PROMETHEUS_PORT"),
            Port(self.epmd_port, "Erlang's name server epmd", f"{prefix}_EPMD_PORT"),
            Port(self.distribution_port, "rabbitmqctl", f"{prefix}_DISTRIBUTION_PORT"),
        ]

    def prepare(self) -> None:
        """Write the configuration; the broker makes its data itself."""
        for folder in (self.directory, self._home, self.directory / "mnesia"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cookie = self._home / ".erlang.cookie"
        if not cookie.exists():
            write_private(cookie, secrets.token_hex(20), mode=0o400)
        definitions = json.dumps(self.definitions(), indent=2)
        write_private(self.directory / "definitions.json", definitions)
        write_private(self.directory / "rabbitmq.conf", self._config())
        write_private(
            self.directory / "enabled_plugins", "[rabbitmq_management,rabbitmq_prometheus].\n"
        )
        # In place of the one in /etc/rabbitmq, which belongs to the system's broker.
        write_private(self.directory / "rabbitmq-env.conf", "")

    def programs(self) -> Sequence[Program]:
        """The name server epmd, then the broker."""
        environment = self._environment()
        return [
            # In the foreground: one that Erlang starts by itself stays behind as a daemon.
            Program(
                "epmd",
                [system_packages.EPMD.require(), "-port", str(self.epmd_port)],
                self.directory,
                environment,
                listens_on=self.epmd_port,
            ),
            Program(
                self.name,
                [system_packages.RABBITMQ.require()],
                self.directory,
                environment,
                stop_signal="KILL" if self.throwaway else "TERM",
                stop_wait_seconds=60,
            ),
        ]

    def is_ready(self) -> bool:
        """Whether clients may log in and the virtual host is there."""
        return accepts_connections(self.port) and self._knows_virtual_host()

    @property
    def _home(self) -> Path:
        return self.directory / "home"

    def _knows_virtual_host(self) -> bool:
        path = f"/api/vhosts/{urllib.parse.quote(self.virtual_host, safe='')}"
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        connection = http.client.HTTPConnection(LOOPBACK, self.management_port, timeout=2)
        try:
            connection.request("GET", path, headers={"Authorization": f"Basic {credentials}"})
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _config(self) -> str:
        return (
            f"listeners.tcp.local = {LOOPBACK}:{self.port}\n"
            f"management.tcp.ip = {LOOPBACK}\nmanagement.tcp.port = {self.management_port}\n"
            f"prometheus.tcp.ip = {LOOPBACK}\nprometheus.tcp.port = {self.prometheus_port}\n"
            # Read on every start, so that the password in the settings is the one that counts.
            f"load_definitions = {self.directory / 'definitions.json'}\n"
            f"default_vhost = {self.virtual_host}\n"
            "log.console = true\nlog.console.level = info\nlog.console.use_colors = off\n"
            "log.file = false\n"
            # Quorum queues keep up to three times this in memory; the default of 512 MB is meant
            # for a machine that is all RabbitMQ's.
            "raft.wal_max_size_bytes = 67108864\n"
        )

    def definitions(self) -> dict[str, Any]:
        """Users, the virtual host and who may do what in it, as RabbitMQ loads them."""
        owner = BrokerLogin(self.user, self.password, _EVERYTHING)
        logins = [owner, *self.logins]
        return {
            "users": [_user(each, ["administrator"] if each is owner else []) for each in logins],
            "vhosts": [{"name": self.virtual_host}],
            "permissions": [
                each.rights.permissions(each.name, self.virtual_host) for each in logins
            ],
        }

    def _environment(self) -> dict[str, str]:
        loopback_only = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "HOME": str(self._home),
            "RABBITMQ_NODENAME": "taskflow@localhost",
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_PID_FILE": str(self.directory / "rabbitmq.pid"),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-start_epmd false {loopback_only}",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP": str(self.directory / "erl_crash.dump"),
        }


def _user(login: BrokerLogin, tags: Sequence[str]) -> dict[str, object]:
    return {
        "name": login.name,
        "password_hash": _password_hash(login.password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": tags,
    }


def _password_hash(password: str) -> str:
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
