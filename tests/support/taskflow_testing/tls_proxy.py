"""TLS in front of a server that has none: its clients see the certificate of the test."""

import asyncio
import ssl

from taskflow_testing.tcp_proxy import TcpProxy

_WITH_TLS = {"amqp": "amqps", "redis": "rediss", "http": "https", "postgresql": "postgresql"}
_SSL_REQUEST = (8).to_bytes(4) + (80_877_103).to_bytes(4)


class TlsProxy(TcpProxy):
    """Ends TLS and passes on what was in it; of PostgreSQL it knows the request for TLS."""

    def __init__(self, target_url: str, tls: ssl.SSLContext) -> None:
        scheme = target_url.partition("://")[0]
        self._upgrade = tls if scheme == "postgresql" else None
        self._scheme = _WITH_TLS[scheme]
        super().__init__(target_url, tls=None if self._upgrade else tls)

    @property
    def url(self) -> str:
        """As of any proxy, with the scheme that asks for TLS."""
        return f"{self._scheme}://{super().url.partition('://')[2]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._upgrade is not None:
            try:
                if await reader.readexactly(len(_SSL_REQUEST)) != _SSL_REQUEST:
                    return  # A client that speaks without TLS is hung up on.
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(self._upgrade)
            except (OSError, asyncio.IncompleteReadError):
                return
        await super()._serve(reader, writer)
