import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from taskflow_scheduler.leadership import (
    LOCK_ID,
    SILENCE_SECONDS,
    TERM_SECONDS,
    WORD_EVERY_SECONDS,
    Leadership,
)
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually


@asynccontextmanager
async def candidate(
    database_url: str, is_able: Callable[[], bool] = lambda: True
) -> AsyncIterator[Leadership]:
    leadership = Leadership(database_url, is_able=is_able)
    leadership.start()
    try:
        yield leadership
    finally:
        await leadership.stop()


async def until_leading(leadership: Leadership, timeout: float = 10.0) -> None:
    async def leads() -> bool:
        return leadership.leads

    await eventually(leads, timeout=timeout)


async def until_refused(jobs: Jobs) -> None:
    """Return when a candidate has asked for the lock while the other one held it."""

    async def refused() -> bool:
        return bool(
            await jobs.connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'taskflow-scheduler-leadership'"
                " AND state = 'idle' AND query LIKE '%pg_try_advisory_lock%'"
            )
        )

    await eventually(refused)


async def test_one_leads_and_another_follows_it(clean_database: str, jobs: Jobs) -> None:
    async with candidate(clean_database) as first:
        first.start()
        await until_leading(first)
        async with candidate(clean_database) as second:
            await until_refused(jobs)
            assert (first.leads, second.leads) == (True, False)
            await first.stop()
            await first.stop()
            assert not first.leads
            await until_leading(second, timeout=3)


async def test_a_frozen_leader_is_replaced_and_knows_it(clean_database: str, jobs: Jobs) -> None:
    async with TcpProxy(clean_database) as proxy, candidate(proxy.url) as frozen:
        await until_leading(frozen)
        async with candidate(clean_database) as standby:
            proxy.freeze()
            both = 0
            loop = asyncio.get_running_loop()
            frozen_at = loop.time()
            while not standby.leads:
                assert loop.time() - frozen_at < SILENCE_SECONDS + 5
                await asyncio.sleep(0.01)
                both += frozen.leads and standby.leads
            assert both == 0
            assert not frozen.leads
            proxy.thaw()
            await until_refused(jobs)
            assert (frozen.leads, standby.leads) == (False, True)


async def test_a_leader_whose_session_is_ended_is_elected_again(
    clean_database: str, jobs: Jobs
) -> None:
    async with candidate(clean_database) as leader:
        await until_leading(leader)
        await end_sessions(jobs.connection)

        async def deposed() -> bool:
            return not leader.leads

        await eventually(deposed)
        await until_leading(leader)


async def test_a_leader_whose_session_is_ended_leads_no_more_when_another_does(
    clean_database: str, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would learn of its end from its next word, and that comes when its term is about over.
    monkeypatch.setattr("taskflow_scheduler.leadership.WORD_EVERY_SECONDS", TERM_SECONDS)
    async with candidate(clean_database) as ended:
        await until_leading(ended)
        monkeypatch.setattr("taskflow_scheduler.leadership.WORD_EVERY_SECONDS", 0.01)
        await end_sessions(jobs.connection)
        async with candidate(clean_database) as successor:
            await until_leading(successor, timeout=2)
            assert not ended.leads


class Broker:
    """Whether a candidate has one."""

    def __init__(self, *, connected: bool) -> None:
        self.connected = connected

    def __call__(self) -> bool:
        return self.connected


async def until_able(jobs: Jobs, candidates: int) -> None:
    """Return when so many have said that they have the broker."""

    async def said() -> bool:
        found = await jobs.connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'"
            " AND (classid::bigint << 32) | objid::bigint = $1 AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())",
            LOCK_ID + 1,
        )
        return bool(found == candidates)

    await eventually(said)


@pytest.fixture
def quick_to_yield(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_scheduler.leadership.YIELD_AFTER_SECONDS", 0.5)


@pytest.mark.usefixtures("quick_to_yield")
async def test_a_leader_without_the_broker_gives_way_to_one_that_has_it(
    clean_database: str, jobs: Jobs
) -> None:
    first_has, second_has = Broker(connected=True), Broker(connected=True)
    async with candidate(clean_database, first_has) as first:
        await until_leading(first)
        async with candidate(clean_database, second_has) as second:
            await until_able(jobs, 2)
            first_has.connected = False
            await until_leading(second)
            assert not first.leads
            # Neither is better off now, so nobody gives way; the first one would have by then.
            second_has.connected = False
            await stays_leading(second)
            first_has.connected = True
            await until_leading(first)


@pytest.mark.usefixtures("quick_to_yield")
async def test_where_nobody_has_the_broker_there_is_a_leader_that_stays(
    clean_database: str, jobs: Jobs
) -> None:
    async with candidate(clean_database, Broker(connected=False)) as first:
        await until_leading(first)
        async with candidate(clean_database, Broker(connected=False)):
            await until_refused(jobs)
            await stays_leading(first)


@pytest.mark.usefixtures("quick_to_yield")
async def test_a_leader_that_lacks_the_broker_for_a_moment_stays(
    clean_database: str, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_scheduler.leadership.YIELD_AFTER_SECONDS", 60.0)
    first_has = Broker(connected=True)
    async with candidate(clean_database, first_has) as first:
        await until_leading(first)
        async with candidate(clean_database):
            await until_able(jobs, 2)
            first_has.connected = False
            await stays_leading(first)


async def stays_leading(leadership: Leadership) -> None:
    """Three words long; a leader that gives way does so with one of them."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 3 * WORD_EVERY_SECONDS
    while loop.time() < until:
        assert leadership.leads
        await asyncio.sleep(0.05)


async def end_sessions(connection: asyncpg.Connection) -> None:
    ended = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'taskflow-scheduler-leadership'"
        " AND datname = current_database()"
    )
    assert ended == 1
