"""A load balancer in front of a RabbitMQ cluster, as users of clusters have one."""

import asyncio
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from taskflow_testing.tcp_proxy import TcpProxy

_CHECK_SECONDS = 2.0
_ANSWER_SECONDS = 2.0
_FAILURES_ALLOWED = 2
_HELLO = b"AMQP\x00\x00\x09\x01"


class Balancer(TcpProxy):
    """Deals new connections in turn to the nodes that answer its checks.

    One that has failed three checks in a row gets no new ones: what HAProxy does by default.
    Connections that are open are left alone; it is for their ends to notice.
    """

    def __init__(self, urls: Sequence[str], *, check_seconds: float = _CHECK_SECONDS) -> None:
        """`urls`: one for each node, alike but for the address."""
        super().__init__(urls[0])
        self._check_seconds = check_seconds
        self._failures = dict.fromkeys(urls, 0)
        self._turn = itertools.count()
        self._checks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._checks = [asyncio.create_task(self._keep_checking(url)) for url in self._failures]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        await super().__aexit__(exc_type, exc, traceback)

    def _next_target(self) -> str:
        up = [url for url, failures in self._failures.items() if failures <= _FAILURES_ALLOWED]
        return (up or list(self._failures))[next(self._turn) % (len(up) or len(self._failures))]

    async def _keep_checking(self, url: str) -> None:
        while True:
            self._failures[url] = 0 if await _answers(url) else self._failures[url] + 1
            await asyncio.sleep(self._check_seconds)


async def _answers(url: str) -> bool:
    """Whether there is a broker: it says something when it is greeted."""
    node = urlsplit(url)
    writer = None
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(node.hostname, node.port)
            writer.write(_HELLO)
            return bool(await reader.read(1))
    except OSError:
        return False
    finally:
        if writer is not None:
            writer.transport.abort()
