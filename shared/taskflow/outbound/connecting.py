"""From a name to a connection: resolved once, every address checked, the checked one dialled."""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, Protocol

from httpcore2 import (
    SOCKET_OPTION,
    AnyIOBackend,
    AsyncNetworkBackend,
    AsyncNetworkStream,
    NetworkError,
    TimeoutException,
)

from taskflow.outbound.addresses import AddressRule, IPAddress, unmapped
from taskflow.outbound.errors import (
    ConnectFailed,
    DestinationRefused,
    NameNotResolved,
    OutboundError,
    RequestRefused,
    TimedOut,
)

MAX_ADDRESSES_TRIED = 4
RESOLVER_THREADS = 16


class Resolver(Protocol):
    """Knows the addresses of names."""

    async def resolve(self, host: str, port: int, /) -> Sequence[IPAddress]:
        """All addresses of `host`, the best first.

        Raises:
            NameNotResolved: it has none now.
            RequestRefused: it can't be a name.
        """


class SystemResolver:
    """Asks whatever the machine asks: its hosts file, its name servers.

    It has threads of its own: names whose servers are silent must not hold up those that this
    process needs for its own servers.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")

    async def resolve(self, host: str, port: int, /) -> Sequence[IPAddress]:
        """All addresses of `host`; errors as `Resolver.resolve`."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, _look_up, host, port)
        except UnicodeError:
            raise RequestRefused(f"{host!r} is not the name of a host.") from None
        except OSError as error:
            raise NameNotResolved(f"The name {host!r} has no address: {error.strerror}.") from error
        return list(dict.fromkeys(ip_address(address[0]) for *_, address in found))


def _look_up(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)


class GuardedBackend(AsyncNetworkBackend):
    """Makes the one connection of one exchange, and sees to it that it is closed.

    What it is asked to connect to is a name; what it dials is an address that it has checked, so
    that a name which changes its answer in between changes nothing.
    """

    def __init__(self, rule: AddressRule, resolver: Resolver) -> None:
        self._rule = rule
        self._resolver = resolver
        self._dialler = AnyIOBackend()
        self._stream: AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> AsyncNetworkStream:
        """Connect to `host`, all of it within `timeout` seconds.

        Raises:
            OutboundError: one of its addresses is refused, or none answers.
        """
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._checked_addresses(host, port)
                # The first one's silence must not use up the time of the others.
                share = None if timeout is None else timeout / max(1, len(addresses))
                self._stream = await self._dial(addresses, host, port, share)
        except TimeoutError:
            raise TimedOut(f"{host!r} could not be reached within {timeout:g} s.") from None
        return self._stream

    async def aclose(self) -> None:
        """Close the connection, if there is one, also one that was given up half-made."""
        if self._stream is not None:
            await self._stream.aclose()

    async def _checked_addresses(self, host: str, port: int) -> list[IPAddress]:
        """The addresses of a host, all of them allowed: one that isn't damns the name."""
        try:
            addresses: Sequence[IPAddress] = [ip_address(host)]
        except ValueError:
            addresses = await self._resolver.resolve(host, port)
        for address in addresses:
            if (why := self._rule.refusal(address)) is not None:
                raise DestinationRefused(host, why)
        return [unmapped(address) for address in addresses[:MAX_ADDRESSES_TRIED]]

    async def _dial(
        self, addresses: Sequence[IPAddress], host: str, port: int, seconds_each: float | None
    ) -> AsyncNetworkStream:
        failure: OutboundError | None = None
        for address in addresses:
            try:
                return await self._dialler.connect_tcp(str(address), port, timeout=seconds_each)
            except TimeoutException:
                failure = TimedOut(f"{host!r} (port {port}) doesn't answer.")
            except NetworkError as error:
                failure = ConnectFailed(f"{host!r} (port {port}) can't be reached: {error}.")
        raise failure or NameNotResolved(f"The name {host!r} has no address.")
