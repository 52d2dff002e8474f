"""`python -m taskflow_api`: the HTTP service, until SIGTERM or SIGINT."""

import gc
import signal
import sys
from types import FrameType
from typing import NoReturn

import structlog
import uvloop

from taskflow.errors import ConfigurationError, SchemaBehind
from taskflow.log_setup import configure_logging
from taskflow.settings import ApiSettings, exit_with, load_settings
from taskflow_api.app import create_app
from taskflow_api.server import Server
from taskflow_api.startup import listen, open_socket, require_database

GARBAGE_THRESHOLD = 20_000
"""So many more than before, and the collector looks for cycles among them; a few megabytes."""

log = structlog.get_logger("taskflow_api")


async def serve(settings: ApiSettings) -> None:
    """Serve until a signal asks for the end.

    Raises:
        ConfigurationError: a setting is wrong.
        SchemaBehind: the database lacks migrations.
    """
    with open_socket(settings) as bound:
        await require_database(settings)
        listen(bound, settings)
        log.info("api_started", address=f"http://{settings.api_host}:{settings.api_port}")
        server = Server(create_app(settings))
        # What is there by now stays, and no collection has to look through it again. What comes
        # with a request goes with it; few cycles are left for a collection to find.
        gc.freeze()
        gc.set_threshold(GARBAGE_THRESHOLD)
        await server.serve([bound])


def main() -> None:
    """Run the service."""
    # The server raises the signal that ended it once more: by then there is nothing left to stop.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    try:
        settings = load_settings(ApiSettings)
        configure_logging(settings.log_level, settings.log_format, service="api")
        uvloop.run(serve(settings))
    except (ConfigurationError, SchemaBehind) as error:
        exit_with(error)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
