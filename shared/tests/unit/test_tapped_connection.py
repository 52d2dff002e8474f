"""What a connection keeps back of what is to be written."""

import pytest
from pamqp import commands, frame

from taskflow.broker.tapped_connection import ClosedChannels

OPEN, CLOSE, CLOSED = (
    commands.Channel.Open(),
    commands.Channel.Close(200, "", 0, 0),
    commands.Channel.CloseOk(),
)
PUBLISH = commands.Basic.Publish(exchange="jobs", routing_key="default.medium")
Command = (
    commands.Channel.Open
    | commands.Channel.Close
    | commands.Channel.CloseOk
    | commands.Basic.Publish
)
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


def passed(*written: tuple[int, Command]) -> list[bool]:
    channels = ClosedChannels()
    return [channels.may_pass(frame.marshal(command, number)) for number, command in written]


@pytest.mark.parametrize("end", [CLOSE, CLOSED], ids=["by us", "by the broker"])
def test_nothing_follows_on_a_channel_that_was_closed(
    end: Command,
) -> None:
    assert passed((3, OPEN), (3, PUBLISH), (3, end), (3, PUBLISH), (4, PUBLISH)) == [
        True,
        True,
        True,
        False,
        True,
    ]


def test_a_close_of_both_sides_at_once_is_answered() -> None:
    assert passed((3, CLOSE), (3, CLOSED), (3, CLOSE), (3, PUBLISH)) == [True, True, False, False]


def test_a_number_is_good_again_once_a_channel_is_opened_with_it() -> None:
    assert passed((3, CLOSE), (3, OPEN), (3, PUBLISH)) == [True] * 3


def test_a_heartbeat_always_passes() -> None:
    channels = ClosedChannels()
    assert channels.may_pass(frame.marshal(CLOSE, 3))
    assert channels.may_pass(HEARTBEAT)
    assert channels.may_pass(b"AMQP\x00\x00\x09\x01")
