"""A virtual host for each test worker."""

import uuid
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

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


def _client(management_url: str) -> httpx.Client:
    parts = urlsplit(management_url)
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    credentials = (unquote(parts.username or ""), unquote(parts.password or ""))
    return httpx.Client(
        base_url=address, auth=credentials, timeout=_TIMEOUT_SECONDS, trust_env=False
    )
