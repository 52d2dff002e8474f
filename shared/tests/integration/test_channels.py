"""The numbers that a connection's channels have."""

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
