"""The load generator: `python -m taskflow_bench.generator`, a `Load` in, a `Sent` out.

A process of its own, so that it can be told what it costs.
"""

import asyncio
import itertools
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import uvloop

from taskflow_bench.http_exchange import Answer, BadAnswer, Connection, connect
from taskflow_bench.load import Load, Post, Sent

_HOST = "127.0.0.1"


class Generator:
    """Sends one load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._statuses: Counter[int] = Counter()
        self._first_refusal = ""
        self._due_at: dict[str, float] = {}
        self._requests = requests(load)

    async def run(self) -> Sent:
        """Send all of it and wait for the answers."""
        load = self._load
        connections = [await connect(_HOST, load.port) for _ in range(load.connections)]
        began, began_cpu = time.time(), time.process_time()
        try:
            if load.rate is None:
                await self._send_in_turn(connections)
            else:
                await self._send_evenly(connections, load.rate)
        finally:
            for each in connections:
                each.close()
        return Sent(
            began=began,
            ended=time.time(),
            statuses=self._statuses,
            cpu_seconds=time.process_time() - began_cpu,
            due_at=self._due_at,
            first_refusal=self._first_refusal,
        )

    async def _send_in_turn(self, connections: list[Connection]) -> None:
        until = time.monotonic() + self._load.seconds
        left = itertools.repeat(None, self._load.requests)

        async def keep_sending(connection: Connection) -> None:
            for _ in left:
                if time.monotonic() > until:
                    return
                self._note(await connection.exchange(next(self._requests)))

        await asyncio.gather(*map(keep_sending, connections))

    async def _send_evenly(self, connections: list[Connection], rate: float) -> None:
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for each in connections:
            free.put_nowait(each)
        count = min(self._load.requests, int(self._load.seconds * rate))
        loop = asyncio.get_running_loop()
        # The first one is due when the loop is ready for it.
        began, began_at = loop.time() + 1 / rate, time.time() + 1 / rate

        async def send(due_at: float) -> None:
            connection = await free.get()
            answer = await connection.exchange(next(self._requests))
            free.put_nowait(connection)
            if self._note(answer):
                self._due_at[str(json.loads(answer.body)["id"])] = due_at

        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                # From when it was due: a server that is late with others is late with this one.
                tasks.create_task(send(began_at + number / rate))

    def _note(self, answer: Answer) -> bool:
        """Count an answer; whether the job was accepted."""
        self._statuses[answer.status] += 1
        is_accepted = answer.status // 100 == 2
        if not is_accepted and not self._first_refusal:
            self._first_refusal = answer.body.decode(errors="replace")[:1000]
        return is_accepted


def requests(load: Load) -> Iterator[bytes]:
    """The bytes of one request after the other, without an end."""
    run = uuid.uuid4().hex
    prepared = [(_head(load, post), post.body.encode()) for post in load.posts]
    for number, (head, body) in enumerate(itertools.cycle(prepared)):
        key = f"\r\nIdempotency-Key: {run}-{number}" if load.with_idempotency_keys else ""
        yield b"".join((head, key.encode(), b"\r\n\r\n", body))


def _head(load: Load, post: Post) -> bytes:
    lines = [
        f"POST {load.path} HTTP/1.1",
        f"Host: {_HOST}:{load.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(post.body.encode())}",
        *(f"{name}: {value}" for name, value in {**load.headers, **post.headers}.items()),
    ]
    return "\r\n".join(lines).encode()


def main() -> None:
    """Read the load, send it, write what became of it."""
    load = Load.model_validate_json(sys.stdin.buffer.read())
    try:
        sent = uvloop.run(Generator(load).run())
    except BadAnswer as error:
        sys.exit(str(error))
    sys.stdout.write(sent.model_dump_json())


if __name__ == "__main__":
    main()
