"""What a connection keeps back of what is to be written."""

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


def test_nothing_follows_on_a_channel_that_we_have_closed() -> None:
    written = passed((3, OPEN), (3, PUBLISH), (3, CLOSE), (3, PUBLISH), (3, CLOSE), (4, PUBLISH))
    assert written == [True, True, True, False, False, True]


def test_nothing_follows_on_a_channel_that_the_broker_has_closed() -> None:
    channels = ClosedChannels()
    channels.add(3)
    # Its close is answered already.
    for command in (PUBLISH, CLOSE, CLOSED):
        assert not channels.may_pass(frame.marshal(command, 3))
    assert channels.may_pass(frame.marshal(PUBLISH, 4))


def test_an_answer_that_is_late_does_not_meet_the_next_channel() -> None:
    channels = ClosedChannels()
    channels.add(3)
    assert channels.may_pass(frame.marshal(OPEN, 3))
    assert not channels.may_pass(frame.marshal(CLOSED, 3))


def test_a_number_is_good_again_once_a_channel_is_opened_with_it() -> None:
    assert passed((3, CLOSE), (3, OPEN), (3, PUBLISH)) == [True] * 3


def test_a_heartbeat_always_passes() -> None:
    channels = ClosedChannels()
    assert channels.may_pass(frame.marshal(CLOSE, 3))
    assert channels.may_pass(HEARTBEAT)
    assert channels.may_pass(b"AMQP\x00\x00\x09\x01")
