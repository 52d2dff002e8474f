"""What waits do when the look at the database goes wrong; the rest is tested over HTTP."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from taskflow.db.pool import Database
from taskflow_api import waiting
from taskflow_api.waiting import Waiters


class NoConnection:
    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


class NoDatabase(Database):
    """Connections that are never used."""

    def __init__(self) -> None:
        return None

    def connection(self) -> Any:
        return NoConnection()


async def test_a_look_that_breaks_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def ended_among(_connection: None, job_ids: list[UUID]) -> set[UUID]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError
        return set(job_ids)

    monkeypatch.setattr(waiting, "ended_among", ended_among)
    monkeypatch.setattr(waiting, "LOOK_EVERY_SECONDS_WHILE_AWAY", 0.01)
    async with asyncio.timeout(5):
        await Waiters(NoDatabase()).wait(uuid4(), 60)
    assert looks == 2


async def test_nobody_waits_for_a_process_that_stops() -> None:
    waiters = Waiters(NoDatabase())
    waiters.close()
    async with asyncio.timeout(5):
        await waiters.wait(uuid4(), 60)
