"""Keeps the broker's exchanges, queues and bindings in place while nobody happens to need them.

A connection that is made anew declares them, and so does a publisher that misses one. What is
deleted while all connections live and nothing is published would stay away from consumers.
"""

from taskflow.broker.connection import Broker


class KeepTopology:
    """Declares what may have been deleted; the same again changes nothing."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def round(self) -> bool:
        """Declare all that doesn't depend on a queue's name; there is never more."""
        if self._broker.connected:
            await self._broker.declare_topology()
        return False
