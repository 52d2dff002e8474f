"""What is said on the line arrives whole and in order, however much it is."""

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from taskflow_consumer.heartbeat_line import Line


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


async def read(theirs: socket.socket, count: int) -> list[object]:
    """So many messages."""
    loop = asyncio.get_running_loop()
    received = b""
    messages: list[object] = []
    while len(messages) < count:
        received += await asyncio.wait_for(loop.sock_recv(theirs, 65_536), 5)
        *lines, received = received.split(b"\n")
        messages += [message for line in lines for message in json.loads(line)]
    return messages


async def test_what_may_wait_goes_before_what_is_said_after_it(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    line = Line(ours)
    line.send_soon(["drop", 1])
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    line.send(["hold", 2], ["hold", 3])
    assert theirs.recv(65_536).splitlines() == [b'[["drop",1],["hold",2],["hold",3]]']
    line.close()


async def test_what_may_wait_waits_for_one_turn_of_the_loop(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    line = Line(ours)
    line.send_soon(["drop", 1])
    line.send_soon(["drop", 2])
    await asyncio.sleep(0)
    assert theirs.recv(65_536).splitlines() == [b'[["drop",1],["drop",2]]']
    line.close()


async def test_more_than_the_socket_takes_arrives_in_order(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    line = Line(ours)
    sent: list[object] = [["hold", number, "x" * 1000] for number in range(2_000)]
    line.send(*sent[:1_000])
    for message in sent[1_000:1_500]:
        line.send_soon(message)
    line.send(*sent[1_500:])
    assert await read(theirs, len(sent)) == sent
    line.send(["last"])
    assert await read(theirs, 1) == [["last"]]
    line.close()


async def test_who_has_hung_up_is_told_nothing_more(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    line = Line(ours)
    theirs.close()
    line.send(["hold", 1])
    line.send_soon(["drop", 1])
    line.close()
    await asyncio.sleep(0)
