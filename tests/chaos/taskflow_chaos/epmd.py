"""Erlang's name server for one node: it tells where other nodes listen, here by way of a proxy.

A node asks its own name server for the port of every peer. One that answers with the port of a
TCP proxy has all traffic between two nodes in the suite's hands, without root or a firewall.
The protocol: https://www.erlang.org/doc/apps/erts/erl_dist_protocol.html
"""

import asyncio
import contextlib
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from taskflow_local.ports import LOOPBACK

_ALIVE2_REQ = 120
_ALIVE2_X_RESP = 118
_PORT_PLEASE2_REQ = 122
_PORT2_RESP = 119
_NAMES_REQ = 110
_NORMAL_NODE = 77
_HIGHEST, _LOWEST = 6, 5
_UNKNOWN = 1
_NO_REQUEST = (OSError, EOFError, IndexError, UnicodeDecodeError, struct.error)


class NameServer:
    """Listens on `port` until it is left; an async context manager.

    `peers`: the port that is told for each node by name (without its host), in place of its own.
    `registered`: who has registered, with its own port; name servers that share it know the same
    others, such as rabbitmqctl, whom every node must find.
    """

    def __init__(self, port: int, peers: Mapping[str, int], registered: dict[str, int]) -> None:
        self._port = port
        self._peers = peers
        self._registered = registered
        self._creation = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self._port)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(reader, writer), name="epmd connection")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(*_NO_REQUEST):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                request = await reader.readexactly(length)
                if request[0] == _ALIVE2_REQ:
                    await self._register(request, reader, writer)
                elif request[0] == _PORT_PLEASE2_REQ:
                    writer.write(self._port_of(request[1:].decode()))
                elif request[0] == _NAMES_REQ:
                    writer.write(self._names())
                await writer.drain()
        finally:
            writer.close()

    async def _register(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Know a node for as long as it holds its connection."""
        port, *_, length = struct.unpack("!HBBHHH", request[1:11])
        name = request[11 : 11 + length].decode()
        self._creation += 1
        self._registered[name] = port
        try:
            writer.write(struct.pack("!BBI", _ALIVE2_X_RESP, 0, self._creation))
            await reader.read()
        finally:
            if self._registered.get(name) == port:
                del self._registered[name]

    def _port_of(self, name: str) -> bytes:
        port = self._peers.get(name) or self._registered.get(name)
        if port is None:
            return struct.pack("!BB", _PORT2_RESP, _UNKNOWN)
        said = name.encode()
        head = struct.pack(
            "!BBHBBHHH", _PORT2_RESP, 0, port, _NORMAL_NODE, 0, _HIGHEST, _LOWEST, len(said)
        )
        return head + said + struct.pack("!H", 0)

    def _names(self) -> bytes:
        lines = [f"name {name} at port {port}\n" for name, port in self._registered.items()]
        return struct.pack("!I", self._port) + "".join(lines).encode()
