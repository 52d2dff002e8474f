"""How long reads take, one after the other on one connection."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from taskflow_bench.cast import Cast
from taskflow_bench.http_exchange import connect
from taskflow_bench.report import figure

_HOST = "127.0.0.1"
_OK = 200
_MILLISECONDS = 1_000


@dataclass(frozen=True)
class Reads:
    """The median of those that were answered (None: not all of them were), and what was refused."""

    milliseconds: float | None
    refused: Mapping[int, int]


async def read(cast: Cast, path: str, *, times: int, seconds: float) -> Reads:
    """GET a path so often, or until the time is up; the first one, cold, is left out."""
    head = [f"GET {path} HTTP/1.1", f"Host: {_HOST}:{cast.port}"]
    head += [f"{name}: {value}" for name, value in cast.headers.items()]
    request = ("\r\n".join(head) + "\r\n\r\n").encode()
    connection = await connect(_HOST, cast.port)
    taken: list[float] = []
    refused: dict[int, int] = {}
    until = time.monotonic() + seconds
    try:
        while len(taken) <= times and (len(taken) < 2 or time.monotonic() < until):
            began = time.perf_counter()
            answer = await connection.exchange(request)
            taken.append((time.perf_counter() - began) * _MILLISECONDS)
            if answer.status != _OK:
                refused[answer.status] = refused.get(answer.status, 0) + 1
    finally:
        connection.close()
    return Reads(None if refused else figure(taken[1:]).median, refused)
