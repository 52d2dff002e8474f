"""Services whose users in RabbitMQ may do what they must and no more, on an empty broker."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from taskflow.broker.rights import BROKER_RIGHTS
from taskflow_testing.broker import create_virtual_host, delete_virtual_host, user_with
from taskflow_testing.job_client import JobClient
from taskflow_testing.servers import TestServers
from taskflow_testing.services import NewServices, Servers


@pytest.fixture
def amqp_urls(servers: TestServers) -> Iterator[dict[str, str]]:
    management = servers.rabbitmq_management_url
    owner = create_virtual_host(management, servers.amqp_url)
    with ExitStack() as stack:
        stack.callback(delete_virtual_host, management, owner)
        yield {"owner": owner} | {
            service: stack.enter_context(user_with(management, owner, rights))
            for service, rights in BROKER_RIGHTS.items()
        }


async def test_jobs_go_every_way_with_the_rights_of_each_service(
    new_services: NewServices, real_servers: Servers, amqp_urls: dict[str, str]
) -> None:
    services = new_services(replace(real_servers, amqp_url=amqp_urls["owner"]))
    # In the order in which the least is there for each.
    consumer = await services.start_consumer(
        handlers="trial_jobs", queues="default,own", amqp_url=amqp_urls["consumer"]
    )
    api = await services.start_api(amqp_url=amqp_urls["api"])
    await services.start_scheduler(amqp_url=amqp_urls["scheduler"])
    async with services.client() as http:
        jobs = JobClient(http)
        done = [
            await jobs.submit("echo", {"text": "x"}, queue=queue) for queue in ("default", "own")
        ]
        retried = await jobs.submit("flaky", {"fail_times": 1})
        failed = await jobs.submit("flaky", {"fail_times": 9, "permanent": True})
        for job in (*done, retried):
            await jobs.completes(job)
        await jobs.reaches(failed, "failed")
        # A lane that no worker serves: what is sent there waits, and harms nobody.
        lonely = await jobs.submit("echo", {"text": "x"}, queue="nobodys")
        await jobs.completes(await jobs.submit("echo", {"text": "x"}))
        assert (await jobs.get(lonely))["state"] == "queued"
    for process in (api, consumer):
        assert not process.events("lane_not_declared")
        # Nothing that was refused has cost a connection.
        assert not process.events("broker_connection_lost")
