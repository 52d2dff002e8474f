"""A broker that is emptied under the services: everything returns without a hand."""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import unquote, urlsplit

import httpx
import pytest
import pytest_asyncio

from taskflow_testing.broker import create_virtual_host, delete_virtual_host
from taskflow_testing.database import empty_tables
from taskflow_testing.job_client import Job, JobClient
from taskflow_testing.servers import TestServers
from taskflow_testing.services import Servers, Services

from .conftest import HANDLERS, QUICK_LEASES

RETURN_SECONDS = 30.0


@pytest.fixture(scope="module")
def own_host(servers: TestServers, real_servers: Servers) -> Iterator[Servers]:
    """The servers, with a virtual host that no other test works with."""
    url = create_virtual_host(servers.rabbitmq_management_url, servers.amqp_url)
    yield Servers(real_servers.database_url, url, real_servers.redis_url, real_servers.s3)
    delete_virtual_host(servers.rabbitmq_management_url, url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(
    own_host: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    """Whichever test comes first leaves them with everything returned."""
    await empty_tables(own_host.database_url)
    folder = tmp_path_factory.mktemp("services")
    settings = {**QUICK_LEASES, "pointer_lost_after_seconds": 5}
    services = Services(own_host, folder, HANDLERS, **settings)
    try:
        await services.start_api()
        await services.start_consumer(handlers="trial_jobs")
        await services.start_scheduler()
        await services.start_scheduler()
        yield services
    finally:
        await services.stop()


def management(servers: TestServers) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=servers.rabbitmq_management_url, timeout=30, trust_env=False)


async def delete_all(servers: TestServers, host: str) -> None:
    """Delete every queue and every exchange of ours; the connections live on."""
    async with management(servers) as client:
        for kind in ("queues", "exchanges"):
            found = (await client.get(f"/api/{kind}/{host}")).raise_for_status().json()
            for name in (each["name"] for each in found):
                if name and not name.startswith("amq."):
                    (await client.delete(f"/api/{kind}/{host}/{name}")).raise_for_status()


async def reset(servers: TestServers, host: str) -> None:
    """Delete the virtual host with all that is in it and everyone's connections; make it anew."""
    user = unquote(urlsplit(servers.amqp_url).username or "guest")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    async with management(servers) as client:
        (await client.delete(f"/api/vhosts/{host}")).raise_for_status()
        (await client.put(f"/api/vhosts/{host}")).raise_for_status()
        permissions = f"/api/permissions/{host}/{user}"
        (await client.put(permissions, json=everything)).raise_for_status()


async def submit_of_each_kind(jobs: JobClient) -> list[Job]:
    return [
        await jobs.submit("echo", {"text": "at once"}),
        await jobs.submit("echo", {"text": "later"}, delay_seconds=2),
        await jobs.submit("echo", {"text": "urgent"}, priority="urgent"),
        await jobs.submit("flaky", {"fail_times": 2}),
    ]


async def test_queues_and_exchanges_that_are_deleted_return(
    servers: TestServers, own_host: Servers, services: Services
) -> None:
    async with services.client() as client:
        jobs = JobClient(client)
        for job in await submit_of_each_kind(jobs):
            await jobs.completes(job, timeout=RETURN_SECONDS)
        waiting = await jobs.submit("flaky", {"fail_times": 1})
        await jobs.reaches(waiting, "retrying")
        await delete_all(servers, urlsplit(own_host.amqp_url).path.lstrip("/"))
        after = await submit_of_each_kind(jobs)
        for job in [waiting, *after]:
            await jobs.completes(job, timeout=RETURN_SECONDS)


async def test_a_broker_that_is_reset_to_empty_is_filled_again(
    servers: TestServers, own_host: Servers, services: Services
) -> None:
    async with services.client() as client:
        jobs = JobClient(client)
        for job in await submit_of_each_kind(jobs):
            await jobs.completes(job, timeout=RETURN_SECONDS)
        waiting = await jobs.submit("flaky", {"fail_times": 1})
        await jobs.reaches(waiting, "retrying")

        await reset(servers, urlsplit(own_host.amqp_url).path.lstrip("/"))
        after = await submit_of_each_kind(jobs)
        for job in [waiting, *after]:
            done = await jobs.completes(job, timeout=RETURN_SECONDS)
            assert done["attempt"] <= 3
