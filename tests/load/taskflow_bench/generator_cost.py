"""What the load generator takes by itself: a load on an application that does nothing."""

import os
import sys
from pathlib import Path
from typing import Any

from taskflow_bench.load import Load, Post
from taskflow_bench.measuring import send
from taskflow_bench.report import GeneratorCost
from taskflow_local.ports import accepts_connections, choose_free
from taskflow_local.supervisor import MARKER
from taskflow_testing.services import ServiceProcess

_MILLISECONDS = 1_000
_ANSWER = b'{"id":"0"}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]


async def app(scope: dict[str, Any], receive: Any, answer: Any) -> None:
    """The bare ASGI application: read the request, answer."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await answer({"type": "http.response.start", "status": 202, "headers": _HEADERS})
    await answer({"type": "http.response.body", "body": _ANSWER})


async def measure(folder: Path, *, connections: int, requests: int) -> GeneratorCost:
    """Start the application, put the load on, stop it."""
    (port,) = choose_free(1)
    command = [
        sys.executable, "-m", "uvicorn", f"{__name__}:app", "--port", str(port),
        "--lifespan", "off", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    environment = {**os.environ, MARKER: str(folder)}
    process = ServiceProcess("the bare application", command, environment, folder / "bare.log")

    async def is_ready() -> bool:
        return accepts_connections(port)

    try:
        await process.wait_ready(is_ready)
        sent = await send(
            Load(
                port=port,
                path="/",
                posts=[Post(body='{"type":"echo","payload":{"text":"hello"}}')],
                connections=connections,
                requests=requests,
                seconds=30.0,
            )
        )
    finally:
        await process.terminate()
    return GeneratorCost(
        requests_per_second=sent.accepted / sent.seconds,
        cpu_ms_per_request=sent.cpu_seconds * _MILLISECONDS / sent.accepted,
    )
