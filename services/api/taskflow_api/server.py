"""uvicorn, as this service runs it."""

import asyncio
from socket import socket
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from taskflow_api.protocol import Protocol

GRACE_SECONDS = 20
"""How long requests may go on once the process is to stop."""

DRAIN_SECONDS = 2.0
"""How long open connections may bring one more request once the process is to stop."""

_LOOK_EVERY_SECONDS = 0.02

KEEP_ALIVE_SECONDS = 75
"""Longer than the idle time of the usual proxies, which would else meet closed connections."""

log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Ends the requests that wait for something when the process is to stop."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # Who is believed about a request's client is ours to say: client_address.py.
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._app = app

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Take no new connection, finish what is under way, close the resources."""
        log.info("api_stopping")
        self._app.state.resources.waiters.close()
        # Connections that were made by now are in the kernel's queue, and would be reset.
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        for listener in self.servers:
            listener.close()
        await self._drain()
        await super().shutdown(sockets)
        log.info("api_stopped")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in peace; at once when it is asked for again."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN_SECONDS
        while (connections := self.server_state.connections) and not self.force_exit:
            for connection in connections:
                if isinstance(connection, Protocol):
                    connection.drain()
            if loop.time() > until:
                break
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
