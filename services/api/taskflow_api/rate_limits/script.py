"""`take.lua`, run for many takes at once on a connection of its own."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from taskflow_api.rate_limits.takes import Take, Taken

SCRIPT = (resources.files(__package__) / "take.lua").read_text(encoding="utf-8")
_DIGEST = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What Redis knows it by."""


class TakeScript:
    """Runs the script; one caller at a time.

    The client itself would take a connection from its pool for each call and give it back, which
    costs as much as the call.
    """

    def __init__(self, redis: Redis) -> None:
        """The connection is made as `redis` makes its own, and when it is needed."""
        pool = redis.connection_pool
        # Callers know how long they wait; the client would start a task for each of its time-outs.
        arguments = pool.connection_kwargs | {"socket_timeout": None}
        # Any: half of its methods have no types.
        self._connection: Any = pool.connection_class(**arguments)

    async def run(self, batch: Sequence[Take]) -> list[Taken]:
        """Take tokens.

        Raises:
            RedisError: Redis refuses it, or is out of reach.
            OSError: it is out of reach.
        """
        try:
            answer = await self._run(batch)
        except RedisConnectionError:
            # A connection from before Redis was started anew says nothing about it.
            answer = await self._run(batch)
        numbers = map(int, answer.split())
        return [
            Taken(take, bool(next(numbers)), [next(numbers) for _ in take.buckets])
            for take in batch
        ]

    async def connect(self) -> None:
        """Connect unless there is a connection; raises what `run` raises."""
        await self._connection.connect()

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.disconnect()

    async def _run(self, batch: Sequence[Take]) -> bytes:
        keys, arguments = call_of(batch)
        await self._connection.connect()
        try:
            return await self._call("EVALSHA", _DIGEST, len(keys), *keys, *arguments)
        except NoScriptError:
            # Redis is new, was started anew or emptied; EVAL leaves the script with it.
            return await self._call("EVAL", SCRIPT, len(keys), *keys, *arguments)

    async def _call(self, *command: str | int) -> bytes:
        await self._connection.send_command(*command)
        answer: bytes = await self._connection.read_response()
        return answer


def call_of(batch: Sequence[Take]) -> tuple[list[str], list[int]]:
    """The keys and arguments of the script for these takes."""
    keys: list[str] = []
    arguments: list[int] = []
    for take in batch:
        arguments += (take.cost, len(take.buckets))
        for bucket in take.buckets:
            keys.append(bucket.key)
            arguments += (bucket.policy.quota, bucket.policy.window_ms)
    return keys, arguments
