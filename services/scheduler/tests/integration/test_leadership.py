import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from taskflow_scheduler.leadership import SILENCE_SECONDS, Leadership
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually


@asynccontextmanager
async def candidate(database_url: str) -> AsyncIterator[Leadership]:
    leadership = Leadership(database_url)
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


async def end_sessions(connection: asyncpg.Connection) -> None:
    ended = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'taskflow-scheduler-leadership'"
        " AND datname = current_database()"
    )
    assert ended == 1
