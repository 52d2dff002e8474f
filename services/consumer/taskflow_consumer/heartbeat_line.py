"""JSON lines between a consumer and the sibling that keeps its leases.

A line to the sibling is a list of messages, all that is said at once: it is spared what each line
costs. A line from it is one message.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Line:
    """JSON lines over a socket; sending never waits."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._unsaid: list[object] = []
        self._unsent = bytearray()
        self._loop = asyncio.get_running_loop()
        self._is_waiting = False
        self._sending: asyncio.Handle | None = None

    def send(self, *messages: object) -> None:
        """Send now what the socket takes, the rest when it can."""
        self._unsaid.extend(messages)
        self._send()

    def send_soon(self, message: object) -> None:
        """Send along with what is sent next, at the latest in the loop's next turn."""
        self._unsaid.append(message)
        if self._sending is None:
            self._sending = self._loop.call_soon(self._send)

    def _send(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._unsaid:
            self._unsent += _ENCODER.encode(self._unsaid).encode() + b"\n"
            self._unsaid.clear()
        if self._is_waiting or not self._unsent:
            return
        self._flush()
        if self._unsent:
            self._is_waiting = True
            self._loop.add_writer(self._socket, self._flush_later)

    async def messages(self) -> AsyncIterator[list[Any]]:
        """Yield what the other side says until it closes the line."""
        rest = b""
        while True:
            try:
                received = await self._loop.sock_recv(self._socket, 65_536)
            except OSError:
                return
            if not received:
                return
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def close(self) -> None:
        """Hang up."""
        if self._sending is not None:
            self._sending.cancel()
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _flush_later(self) -> None:
        self._flush()
        if not self._unsent:
            self._is_waiting = False
            self._loop.remove_writer(self._socket)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # The other side is gone; whoever listens sees it, and says everything anew.
            self._unsent.clear()
            return
        del self._unsent[:sent]
