"""`python -m taskflow_consumer`: settings from the environment, an end at SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import NoReturn

import structlog
import uvloop

from taskflow.errors import ConfigurationError, SchemaBehind
from taskflow.sdk.registry import Registry
from taskflow.settings import ConsumerSettings, exit_with, load_settings
from taskflow_consumer.app import run
from taskflow_consumer.handlers import built_in_job_types
from taskflow_consumer.log_capture import configure_capture
from taskflow_consumer.shutdown import Shutdown

GARBAGE_THRESHOLD = 20_000
"""So many objects more than at its last look, and the collector looks for cycles again."""

log = structlog.get_logger(__name__)


async def work(settings: ConsumerSettings, registry: Registry) -> int:
    """Run until a signal asks for the end, a second one at once, or a limit does; the exit code."""
    shutdown = Shutdown()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, shutdown.ask)
    await run(settings, registry, shutdown)
    if len(asyncio.all_tasks()) > 1:
        # A handler that swallows its cancellation would keep the loop from closing, for ever.
        leave(shutdown.exit_code)
    return shutdown.exit_code


def leave(exit_code: int) -> NoReturn:
    """End the process without waiting for handlers' threads and tasks that can't be stopped."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(exit_code)


def main() -> int:
    """The process; its exit code. A defect ends it, for its supervisor to start it again."""
    try:
        settings = load_settings(ConsumerSettings)
        configure_capture(settings.log_level, settings.log_format)
        built_in = built_in_job_types(settings.disabled_built_ins)
        registry = Registry.from_modules(settings.handlers, built_in)
        # What is there by now stays, and no collection has to look through it again.
        gc.freeze()
        # A hundred jobs at once make more than the usual 2000 objects, which go without it.
        gc.set_threshold(GARBAGE_THRESHOLD)
        return uvloop.run(work(settings, registry))
    except (ConfigurationError, SchemaBehind) as error:
        exit_with(error)
    except Exception:
        log.exception("consumer_failed")
        return 1


if __name__ == "__main__":
    leave(main())
