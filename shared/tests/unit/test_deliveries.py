import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.common import FieldTable
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat
from uuid_utils.compat import uuid7
from yarl import URL

from taskflow.broker.connection import connect
from taskflow.broker.deliveries import Delivery, DeliveryTap
from taskflow.broker.message import encode
from taskflow.broker.outages import BROKER_ERRORS
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority

HEARTBEAT = frame.marshal(Heartbeat(), 0)
OURS, OTHER = 3, 4


def message(
    channel: int,
    tag: int,
    body: bytes,
    headers: FieldTable | None = None,
    *,
    piece: int = 5,
) -> bytes:
    """A delivery as a broker frames it, its body in pieces."""
    properties = commands.Basic.Properties(headers=headers, content_type="text/plain")
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    parts: list[commands.Basic.Deliver | ContentHeader | ContentBody] = [
        deliver(tag),
        ContentHeader(0, len(body), properties),
        *(ContentBody(each) for each in pieces),
    ]
    return b"".join(frame.marshal(part, channel) for part in parts)


def deliver(tag: int) -> commands.Basic.Deliver:
    return commands.Basic.Deliver("lane", tag, False, "jobs", "default.medium")


def tapped() -> tuple[DeliveryTap, list[Delivery]]:
    tap, heard = DeliveryTap(), list[Delivery]()
    tap.listen(OURS, heard.extend)
    return tap, heard


bodies = st.lists(st.tuples(st.sampled_from([OURS, OTHER]), st.binary(max_size=20)), max_size=8)


@given(bodies, st.lists(st.integers(1, 60), min_size=1))
def test_deliveries_are_taken_out_wherever_reads_end(
    sent: list[tuple[int, bytes]], reads: list[int]
) -> None:
    stream, others = b"", b""
    for tag, (channel, body) in enumerate(sent, start=1):
        between = frame.marshal(commands.Basic.QosOk(), channel)
        stream += message(channel, tag, body) + between
        others += (b"" if channel == OURS else message(channel, tag, body)) + between
    tap, heard = tapped()
    passed, at = b"", 0
    while at < len(stream):
        size = reads[at % len(reads)]
        passed += tap.take(stream[at : at + size])
        at += size
    assert passed.replace(HEARTBEAT, b"") == others
    ours = [(tag, body) for tag, (channel, body) in enumerate(sent, 1) if channel == OURS]
    assert [(each.tag, each.body) for each in heard] == ours


def test_what_has_come_is_handed_over_at_once() -> None:
    tap, heard = DeliveryTap(), list[list[Delivery]]()
    tap.listen(OURS, heard.append)
    tap.take(b"".join(message(OURS, tag, b"x") for tag in range(1, 51)))
    assert [len(each) for each in heard] == [50]


def test_a_connection_that_only_delivers_is_not_silent() -> None:
    tap, _ = tapped()
    assert tap.take(message(OURS, 1, b"one") + message(OURS, 2, b"two")) == HEARTBEAT
    assert tap.take(HEARTBEAT[:3]) == b""


def test_headers_are_those_of_the_sender() -> None:
    tap, heard = tapped()
    pointer = Pointer(uuid7(), Lane("default", Priority.HIGH), "echo", datetime.now(UTC))
    headers = encode(pointer).headers
    tap.take(message(OURS, 1, b"", headers) + message(OURS, 2, b"") + message(OURS, 3, b"", {}))
    assert [dict(each.headers) for each in heard] == [headers, {}, {}]


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_headers_that_cant_be_read_are_shown(cut: int) -> None:
    tap, heard = tapped()
    tap.take(message(OURS, 1, b"", {"pointer_at": 1, "traceparent": "00-1"}))
    broken = Delivery(1, heard[0].header[:-cut])
    assert broken.headers == {"unreadable": broken.header}


def test_headers_that_are_nested_too_deeply_are_shown() -> None:
    tap, heard = tapped()
    tap.take(message(OURS, 1, b"", {"a": 1}))
    nested = b""
    for _ in range(2_000):
        nested = b"A" + len(nested).to_bytes(4) + nested
    table = b"\x01a" + nested
    before, _, _ = heard[0].header.partition(b"\x01a")
    deep = Delivery(1, before[:-4] + len(table).to_bytes(4) + table)
    assert deep.headers == {"unreadable": deep.header}


@given(st.integers(min_value=1, max_value=30))
def test_a_close_is_told_once_it_is_read(piece: int) -> None:
    closed: list[int] = []
    tap = DeliveryTap(closed.append)
    ends = [(OURS, commands.Channel.Close(404, "", 0, 0)), (OTHER, commands.Channel.CloseOk())]
    data = b"".join(frame.marshal(end, number) for number, end in ends) + HEARTBEAT
    passed = b"".join(tap.take(data[at : at + piece]) for at in range(0, len(data), piece))
    assert (closed, passed) == ([OURS], data)


@pytest.mark.parametrize("end", [commands.Channel.CloseOk(), commands.Channel.Close(404, "", 0, 0)])
def test_a_channels_number_is_given_again(end: commands.Channel.Close) -> None:
    tap, heard = tapped()
    ended = frame.marshal(end, OURS)
    cut = frame.marshal(deliver(2), OURS)
    assert tap.take(message(OURS, 1, b"one") + cut + ended) == ended
    assert tap.take(message(OURS, 3, b"three")) == message(OURS, 3, b"three")
    assert heard == []


@pytest.mark.parametrize("said", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_who_speaks_otherwise_is_left_to_the_library(said: bytes) -> None:
    tap, _ = tapped()
    assert tap.take(said) == said
    assert tap.take(said) == said


async def test_a_connection_is_made_over_tls_to_who_has_the_name(tmp_path: Path) -> None:
    authority, header = trustme.CA(), asyncio.get_running_loop().create_future()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header.set_result(await reader.readexactly(8))
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        url = URL(f"amqps://a:b@localhost:{port}/").with_query(cafile=str(tmp_path / "ca.pem"))
        with pytest.raises(BROKER_ERRORS):
            await connect(url, timeout_seconds=5)
        assert await header == b"AMQP\x00\x00\x09\x01"
        with pytest.raises(BROKER_ERRORS):
            await connect(url.with_host("127.0.0.1"), timeout_seconds=5)
