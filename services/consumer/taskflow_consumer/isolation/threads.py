"""A call in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context

from taskflow_consumer.isolation.ending import Ending


def start_in_thread(call: Callable[[], Ending], name: str) -> "asyncio.Future[Ending]":
    """Make the call, in a copy of the current context; its ending, which may never come.

    The executor's slots bound the number of threads. They are no pool's: a pool's threads are
    joined when the process ends, so that one stuck handler would keep a drained consumer alive.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Ending] = loop.create_future()
    context = copy_context()

    def settle(ending: Ending) -> None:
        if not ended.done():
            ended.set_result(ending)

    def body() -> None:
        ending = context.run(call)
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, ending)

    threading.Thread(target=body, name=name, daemon=True).start()
    return ended
