"""A consumer that can be blocked, stopped and killed: it holds what its standard input says.

Each line in and out is a JSON list. The first line in holds the settings of the heartbeat.
"""

import asyncio
import json
import math
import sys
import time
from uuid import UUID

import structlog
import uvloop

from taskflow.jobs.outcomes import Attempt
from taskflow_consumer.heartbeat import Heartbeat


def say(*message: object) -> None:
    sys.stdout.write(json.dumps(message, default=str) + "\n")
    sys.stdout.flush()


def hold_the_interpreter(seconds: float) -> None:
    """Block every thread of this process for at least `seconds`: `pow` never lets go."""
    exponent = 400_000
    longest = 0.0
    while longest < seconds:
        began_at = time.monotonic()
        pow(3, exponent)
        longest = time.monotonic() - began_at
        # Its time grows with the exponent to the power of log2(3).
        exponent = int(exponent * max((seconds / longest) ** (1 / math.log2(3)), 1) * 1.1)
    say("blocked", longest)


async def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    settings = json.loads(await reader.readline())
    worker_id = UUID(settings.pop("worker_id"))
    heartbeat = Heartbeat(
        worker_id=worker_id,
        on_lost=lambda job_id, number: say("lost", job_id, number),
        on_cancel_requested=lambda job_id, number: say("cancel_requested", job_id, number),
        **settings,
    )
    await heartbeat.start()
    say("started")
    while line := await reader.readline():
        match json.loads(line):
            case ["hold", job_id, number, deadline_seconds]:
                heartbeat.hold(Attempt(UUID(job_id), number, worker_id), deadline_seconds)
            case ["block", seconds]:
                hold_the_interpreter(seconds)
    await heartbeat.stop()


uvloop.run(main())
