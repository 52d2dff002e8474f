"""Whether TLS that is meant for all servers is there for all."""

import re

from taskflow.broker.connection import node_urls
from taskflow.doctor.diagnosis import Diagnosis, ok, warn
from taskflow.settings import DoctorSettings

_HERE = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])?(:\d+)?")
_PRIVATE = re.compile(r"(amqps|rediss|https)://|postgres(ql)?://.*[?&]sslmode=verify-full(&|\Z)")


def check_privacy(settings: DoctorSettings) -> Diagnosis:
    """Where some connections have TLS, one to another machine that has none was forgotten."""
    nodes = node_urls(settings.amqp_url.get_secret_value())
    addresses = [
        ("PostgreSQL", settings.database_url.get_secret_value()),
        *(("RabbitMQ", node) for node in nodes),
        ("Redis", settings.redis_url.get_secret_value()),
        ("S3", settings.s3_endpoint),
    ]
    private = {name for name, address in addresses if _PRIVATE.match(address)}
    plain = [(name, each) for name, each in addresses if not _PRIVATE.match(each)]
    forgotten = {name for name, address in plain if not _is_here(address)}
    if private and forgotten:
        return warn(
            "TLS",
            f"there is none to {', '.join(sorted(forgotten))}",
            "Write amqps://, rediss:// and https://, and ?sslmode=verify-full for PostgreSQL.",
        )
    if private:
        return ok("TLS", f"asked for of {', '.join(sorted(private))}")
    return ok("TLS", "none is asked for")


def _is_here(address: str) -> bool:
    # No host at all is a socket file.
    authority = re.split("[/?#]", address.partition("://")[2], maxsplit=1)[0]
    return _HERE.fullmatch(authority.rpartition("@")[2]) is not None
