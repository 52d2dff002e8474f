"""A client of Redis that trusts whom the settings name, and nobody beside them."""

import ssl
from typing import Any

from redis.asyncio import Redis, SSLConnection
from redis.asyncio.retry import Retry


class _NamedAuthorities(SSLConnection):
    """redis-py adds the authorities of a URL to the machine's; here they stand in their place."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        tls = self.ssl_context
        if tls.ca_certs:
            tls.context = ssl.create_default_context(cafile=tls.ca_certs)
            if tls.certfile:
                tls.context.load_cert_chain(tls.certfile, tls.keyfile, tls.password)


def open_redis(url: str, *, timeout_seconds: float, retry: Retry | None = None) -> Redis:
    """A client for a URL of the settings, not connected yet; the time is for each answer."""
    patience: dict[str, Any] = {} if retry is None else {"retry": retry}
    client = Redis.from_url(
        url,
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        **patience,
    )
    if client.connection_pool.connection_class is SSLConnection:
        client.connection_pool.connection_class = _NamedAuthorities
    return client
