"""Passwords as argon2id keeps them, hashed beside the event loop and only a few at once."""

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from taskflow.errors import ServiceUnavailable

MIN_CHARACTERS = 12
MAX_CHARACTERS = 128

AT_ONCE = 2
"""How many are hashed at once: each takes 64 MiB."""

MAX_WAITING = 50
"""How many may wait for their turn, which is some 50 ms for each; those beyond are refused."""

PARAMETERS = argon2.profiles.RFC_9106_LOW_MEMORY

Result = TypeVar("Result")


class Passwords:
    """Makes hashes and compares with them."""

    def __init__(self, parameters: argon2.Parameters = PARAMETERS) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._waiting = 0
        self._nobodys = _hash_of_nothing(parameters)

    async def hash(self, password: str) -> str:
        """What is kept of a password.

        Raises:
            ServiceUnavailable: too many others wait.
        """
        return await self._run(lambda: self._hasher.hash(_normal(password)))

    async def is_right(self, password: str, known: str | None) -> bool:
        """Whether it is the password of this hash; it takes as long if there is no hash.

        Raises:
            ServiceUnavailable: too many others wait.
        """
        right = await self._run(lambda: self._verify(password, known or self._nobodys))
        return right and known is not None

    def is_outdated(self, known: str) -> bool:
        """Whether the hash was made with other parameters than hashes are made with now."""
        return self._hasher.check_needs_rehash(known)

    def close(self) -> None:
        """Hash no more; what has begun ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, known: str) -> bool:
        try:
            return self._hasher.verify(known, _normal(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._waiting >= AT_ONCE + MAX_WAITING:
            raise ServiceUnavailable("The check of passwords", f"{MAX_WAITING} wait for it")
        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # A thread goes on when its caller has gone, and counts for as long.
        running.add_done_callback(self._leave)
        return await asyncio.shield(running)

    def _leave(self, running: "asyncio.Future[Result]") -> None:
        self._waiting -= 1
        if not running.cancelled():
            running.exception()  # Marks it as seen where the caller has gone.


def _hash_of_nothing(parameters: argon2.Parameters) -> str:
    """What takes as long to compare with as any hash; it is that of no password."""
    costs = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
    salt, made = _random(parameters.salt_len), _random(parameters.hash_len)
    return f"$argon2id$v={parameters.version}${costs}${salt}${made}"


def _random(length: int) -> str:
    return base64.b64encode(secrets.token_bytes(length)).rstrip(b"=").decode()


def _normal(password: str) -> str:
    """The same text for the same keys, whichever way a keyboard has composed its letters."""
    return unicodedata.normalize("NFC", password)
