"""Passwords: compared in constant circumstances, hashed anew when that got better, and bounded."""

import asyncio
import threading

import argon2
import pytest

from taskflow.errors import ServiceUnavailable
from taskflow_api.users.passwords import AT_ONCE, MAX_WAITING, PARAMETERS, Passwords

CHEAP = argon2.Parameters(argon2.Type.ID, 19, 16, 32, time_cost=1, memory_cost=8, parallelism=1)


async def test_a_password_is_known_again_and_no_other() -> None:
    passwords = Passwords(CHEAP)
    known = await passwords.hash("correct horse battery")
    assert known.startswith("$argon2id$")
    assert await passwords.is_right("correct horse battery", known)
    assert not await passwords.is_right("correct horse batterY", known)
    assert not await passwords.is_right("correct horse battery", "what is no hash")
    passwords.close()


async def test_letters_are_the_same_however_they_are_composed() -> None:
    passwords = Passwords(CHEAP)
    known = await passwords.hash("caf\u00e9 caf\u00e9 caf\u00e9")
    assert await passwords.is_right("cafe\u0301 cafe\u0301 cafe\u0301", known)
    passwords.close()


async def test_nobodys_password_is_compared_at_the_price_of_anybodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []
    verify = argon2.PasswordHasher.verify

    def watch(self: argon2.PasswordHasher, known: str, password: str) -> bool:
        compared.append(known)
        return verify(self, known, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", watch)
    passwords = Passwords(CHEAP)
    assert not await passwords.is_right("correct horse battery", None)
    (known,) = compared
    assert argon2.extract_parameters(known) == CHEAP
    passwords.close()


async def test_a_hash_of_other_parameters_is_outdated() -> None:
    cheap, dear = Passwords(CHEAP), Passwords(PARAMETERS)
    known = await cheap.hash("correct horse battery")
    assert dear.is_outdated(known)
    assert not cheap.is_outdated(known)
    for passwords in (cheap, dear):
        passwords.close()


async def test_few_are_hashed_at_once_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, running, most = threading.Event(), 0, 0

    def hold(self: argon2.PasswordHasher, password: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        go_on.wait(10)
        running -= 1
        return "hash"

    monkeypatch.setattr(argon2.PasswordHasher, "hash", hold)
    passwords = Passwords(CHEAP)
    tasks = [asyncio.create_task(passwords.hash("x")) for _ in range(AT_ONCE + MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnavailable):
        await passwords.hash("x")
    # Who leaves doesn't make room: the thread goes on.
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    with pytest.raises(ServiceUnavailable):
        await passwords.hash("x")
    go_on.set()
    await asyncio.gather(*tasks[1:])
    assert most == AT_ONCE
    assert await passwords.hash("x") == "hash"
    passwords.close()
