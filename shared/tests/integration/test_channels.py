"""The numbers that a connection's channels have."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiormq.exceptions
import pytest
from yarl import URL

from taskflow.broker.connection import connect
from taskflow.broker.tapped_connection import TappedConnection

pytestmark = pytest.mark.broker


@pytest.fixture
async def connection(amqp_url: str) -> AsyncIterator[TappedConnection]:
    connection = await connect(URL(amqp_url))
    yield connection
    await connection.close()


async def number_of_next(connection: TappedConnection) -> int:
    """Of a channel that is opened and closed."""
    async with connection.channel() as channel:
        return (await channel.get_underlay_channel()).number


async def test_a_channel_has_not_the_number_of_one_that_the_broker_has_just_closed(
    connection: TappedConnection,
) -> None:
    numbers = []
    for _ in range(3):
        channel = await connection.channel()
        numbers.append((await channel.get_underlay_channel()).number)
        with contextlib.suppress(aiormq.exceptions.ChannelNotFoundEntity):
            await channel.get_queue("none")
    assert numbers == [1, 2, 3]


async def test_after_the_highest_number_come_those_that_nobody_has(
    connection: TappedConnection,
) -> None:
    assert connection.transport is not None
    connection.transport.connection.connection_tune.channel_max = 4
    async with connection.channel(2):
        assert [await number_of_next(connection) for _ in range(6)] == [1, 3, 4, 1, 3, 4]


async def test_looks_that_are_given_up_leave_no_channel_at_the_broker(
    connection: TappedConnection,
) -> None:
    """Each closes its channel, at about the moment at which the broker does so too."""
    assert connection.transport is not None
    underlay = connection.transport.connection
    for turn in range(100):
        async with connection.channel() as channel:
            looking = asyncio.create_task(channel.get_queue("none"))
            for _ in range(turn % 12):
                await asyncio.sleep(0)
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
    # Round again: who comes to the number of a channel that is left would lose the connection.
    underlay.connection_tune.channel_max = 101
    numbers = {await number_of_next(connection) for _ in range(101)}
    assert numbers == set(range(1, 102))
    assert underlay.is_opened


async def test_many_that_are_closed_at_once_leave_none_either(
    connection: TappedConnection,
) -> None:
    assert connection.transport is not None
    channels = [await connection.channel() for _ in range(30)]
    looks = [channel.get_queue("none") for channel in channels]
    found = await asyncio.gather(*looks, return_exceptions=True)
    assert {type(each) for each in found} == {aiormq.exceptions.ChannelNotFoundEntity}
    connection.transport.connection.connection_tune.channel_max = 30
    assert {await number_of_next(connection) for _ in range(30)} == set(range(1, 31))
