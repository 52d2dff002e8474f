"""uvloop spells some failures in its own way: a connection must come back from each of them."""

import asyncio

import pytest
import uvloop

from taskflow.broker.connection import Broker
from taskflow_testing.tcp_proxy import TcpProxy

pytestmark = pytest.mark.broker


async def hang_up_in_every_moment(amqp_url: str) -> None:
    async with TcpProxy(amqp_url) as proxy:
        proxy.go_down()
        brokers = [Broker(proxy.url, name=f"test-{number}") for number in range(20)]
        for broker in brokers:
            broker.start()
        await wait_for_connections(proxy, 100)
        proxy.come_back()
        await asyncio.wait_for(asyncio.gather(*(b.wait_connected() for b in brokers)), 30)
        for broker in brokers:
            await broker.close()


async def wait_for_connections(proxy: TcpProxy, count: int) -> None:
    async with asyncio.timeout(30):
        while proxy.accepted < count:
            await asyncio.sleep(0.01)


async def test_a_connection_survives_hang_ups_at_any_moment(amqp_url: str) -> None:
    await asyncio.to_thread(uvloop.run, hang_up_in_every_moment(amqp_url))
