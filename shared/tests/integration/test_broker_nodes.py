"""Several addresses: the nodes of a cluster, stood in for by proxies before one broker."""

import asyncio

import pytest

from taskflow.broker.connection import CONNECT_TIMEOUT_SECONDS, Broker
from taskflow.doctor.broker import open_broker
from taskflow.errors import ServiceUnavailable
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

NOWHERE = "amqp://guest:guest@127.0.0.1:1/taskflow"


async def test_of_several_nodes_one_that_answers_is_found_and_a_lost_one_is_left(
    amqp_url: str,
) -> None:
    async with TcpProxy(amqp_url) as first, TcpProxy(amqp_url) as second:
        broker = Broker(f"{NOWHERE},{first.url}, {second.url}", name="test")
        broker.start()
        await asyncio.wait_for(broker.wait_connected(), 20)
        lost, other = (first, second) if first.accepted else (second, first)

        lost.go_down()

        async def is_at_the_other() -> bool:
            return bool(other.accepted) and broker.connected

        await eventually(is_at_the_other)
        await broker.close()


async def test_a_frozen_node_costs_a_few_seconds(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.sample", lambda urls, _: urls)
    async with TcpProxy(amqp_url) as frozen:
        frozen.freeze()
        broker = Broker(f"{frozen.url},{amqp_url}", name="test")
        broker.start()
        await asyncio.wait_for(broker.wait_connected(), CONNECT_TIMEOUT_SECONDS + 2)
        assert frozen.accepted == 1
        await broker.close()


async def test_processes_begin_with_different_nodes(amqp_url: str) -> None:
    async with TcpProxy(amqp_url) as first, TcpProxy(amqp_url) as second:

        async def both_were_used() -> bool:
            broker = Broker(f"{first.url},{second.url}", name="test")
            broker.start()
            await asyncio.wait_for(broker.wait_connected(), 20)
            await broker.close()
            return bool(first.accepted and second.accepted)

        await eventually(both_were_used, timeout=60)


async def test_the_doctor_looks_through_whichever_node_answers(amqp_url: str) -> None:
    async with open_broker(f"{NOWHERE}, {amqp_url}") as connection:
        assert not connection.is_closed
    with pytest.raises(ServiceUnavailable, match="RabbitMQ"):
        async with open_broker(f"{NOWHERE},{NOWHERE}"):
            pass
