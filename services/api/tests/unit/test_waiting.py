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
        await Waiters(NoDatabase()).wait(uuid4(), uuid4(), 60)
    assert looks == 2


async def test_nobody_waits_for_a_process_that_stops() -> None:
    waiters = Waiters(NoDatabase())
    waiters.close()
    async with asyncio.timeout(5):
        assert not await waiters.wait(uuid4(), uuid4(), 60)


async def test_so_many_of_a_tenant_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: set[UUID] = set()

    async def ended_among(_connection: None, _job_ids: list[UUID]) -> set[UUID]:
        return ended

    monkeypatch.setattr(waiting, "ended_among", ended_among)
    monkeypatch.setattr(waiting, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "MAX_WAITS_OF_TENANT", 2)
    waiters, tenant, short, long = Waiters(NoDatabase()), uuid4(), uuid4(), uuid4()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(waiters.wait(tenant, short, 60))
        others = [tasks.create_task(waiters.wait(tenant, long, 60))]
        await asyncio.sleep(0)
        assert not await waiters.wait(tenant, long, 60)
        # It is nobody else's limit, and who has left makes room.
        others.append(tasks.create_task(waiters.wait(uuid4(), long, 60)))
        ended.add(short)
        assert await first
        others.append(tasks.create_task(waiters.wait(tenant, long, 60)))
        await asyncio.sleep(0)
        assert not any(wait.done() for wait in others)
        ended.add(long)
    assert all(wait.result() for wait in others)
