"""A virtual host for each test worker, and users who may do little in it."""

import contextlib
import uuid
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from taskflow.broker.rights import BrokerRights

_TIMEOUT_SECONDS = 30.0


def create_virtual_host(management_url: str, amqp_url: str) -> str:
    """Make a virtual host that the user of `amqp_url` may do everything in; its AMQP URL."""
    name = f"taskflow-test-{uuid.uuid4().hex[:12]}"
    user = unquote(urlsplit(amqp_url).username or "guest")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    with _client(management_url) as client:
        client.put(f"/api/vhosts/{name}").raise_for_status()
        client.put(f"/api/permissions/{name}/{user}", json=everything).raise_for_status()
    return urlunsplit(urlsplit(amqp_url)._replace(path=f"/{name}"))


def delete_virtual_host(management_url: str, amqp_url: str) -> None:
    """Delete it with its queues and connections."""
    with _client(management_url) as client:
        client.delete(f"/api/vhosts{urlsplit(amqp_url).path}").raise_for_status()


@contextlib.contextmanager
def user_with(management_url: str, amqp_url: str, rights: BrokerRights) -> Iterator[str]:
    """A user who may do only this in the virtual host of `amqp_url`; their AMQP URL."""
    parts = urlsplit(amqp_url)
    virtual_host = parts.path.removeprefix("/")
    name, password = f"taskflow-test-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    permissions = rights.permissions(name, virtual_host)
    with _client(management_url) as client:
        user = {"password": password, "tags": ""}
        client.put(f"/api/users/{name}", json=user).raise_for_status()
        place = f"{virtual_host}/{name}"
        client.put(f"/api/permissions/{place}", json=permissions).raise_for_status()
        try:
            host = parts.netloc.rpartition("@")[2]
            yield urlunsplit(parts._replace(netloc=f"{name}:{password}@{host}"))
        finally:
            client.delete(f"/api/users/{name}").raise_for_status()


def _client(management_url: str) -> httpx.Client:
    parts = urlsplit(management_url)
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    credentials = (unquote(parts.username or ""), unquote(parts.password or ""))
    return httpx.Client(
        base_url=address, auth=credentials, timeout=_TIMEOUT_SECONDS, trust_env=False
    )
