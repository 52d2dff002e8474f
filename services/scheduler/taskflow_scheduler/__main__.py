"""`python -m taskflow_scheduler`: settings from the environment, an end at SIGTERM or SIGINT."""

import asyncio
import os
import signal

import uvloop

from taskflow.errors import ConfigurationError, SchemaBehind
from taskflow.log_setup import configure_logging
from taskflow.settings import SchedulerSettings, exit_with, load_settings
from taskflow_scheduler.app import run


async def main(settings: SchedulerSettings) -> None:
    """Run until a signal asks for the end; a second one gets it at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            # Nothing is lost: PostgreSQL has it all, and the next leader goes on.
            os._exit(0)
        stopping.set()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop)
    await run(settings, stopping)


if __name__ == "__main__":
    try:
        settings = load_settings(SchedulerSettings)
        configure_logging(settings.log_level, settings.log_format, service="scheduler")
        uvloop.run(main(settings))
    except (ConfigurationError, SchemaBehind) as error:
        exit_with(error)
