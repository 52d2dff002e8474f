"""Whether TLS that is meant for all servers is there for all."""

import re
from urllib.parse import parse_qs, unquote

from taskflow.broker.connection import node_urls
from taskflow.doctor.diagnosis import Diagnosis, ok, warn
from taskflow.settings import DoctorSettings

_HERE = re.compile(r"(/.*|(localhost|127(\.\d+){3}|\[?::1\]?)?(:\d+)?)")
"""Of one host; a path is a socket file, and so is none at all."""
_PRIVATE = re.compile(r"(amqps|rediss|https)://|postgres(ql)?://.*[?&]sslmode=verify[-_]full(&|\Z)")


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
    beginning, _, options = address.partition("?")
    authority = beginning.partition("://")[2].partition("/")[0].rpartition("@")[2]
    # PostgreSQL's may be several, and among the options.
    hosts = unquote(authority) or ",".join(parse_qs(options).get("host", []))
    return all(map(_HERE.fullmatch, hosts.split(",")))
