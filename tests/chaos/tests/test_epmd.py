import asyncio
import struct

import pytest

from taskflow_chaos.epmd import NameServer
from taskflow_local.ports import LOOPBACK, choose_free


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(struct.pack("!H", len(request)) + request)
    answer = await reader.read()
    writer.close()
    return answer


async def _port_of(name_server_port: int, node: str) -> int | None:
    answer = await _ask(name_server_port, b"\x7a" + node.encode())
    return None if answer[1] else int(struct.unpack("!H", answer[2:4])[0])


async def _register(
    name_server_port: int, node: str, port: int
) -> tuple[asyncio.StreamWriter, bytes]:
    reader, writer = await asyncio.open_connection(LOOPBACK, name_server_port)
    name = node.encode()
    request = struct.pack("!BHBBHHH", 120, port, 77, 0, 6, 5, len(name)) + name + b"\0\0"
    writer.write(struct.pack("!H", len(request)) + request)
    return writer, await reader.readexactly(6)


async def test_a_node_is_known_for_as_long_as_it_is_there() -> None:
    [port] = choose_free(1)
    async with NameServer(port, {}, {}):
        assert await _port_of(port, "one") is None
        node, answer = await _register(port, "one", 4711)
        assert answer[:2] == bytes([118, 0])
        assert await _port_of(port, "one") == 4711
        assert b"name one at port 4711\n" in await _ask(port, b"\x6e")
        node.close()
        async with asyncio.timeout(5):
            while await _port_of(port, "one") is not None:
                await asyncio.sleep(0.01)


async def test_a_peer_is_found_by_the_way_that_was_laid_to_it() -> None:
    first, second = choose_free(2)
    registered: dict[str, int] = {}
    async with (
        NameServer(first, {"two": 1002}, registered),
        NameServer(second, {"one": 1001}, registered),
    ):
        one, _ = await _register(first, "one", 11)
        two, _ = await _register(second, "two", 22)
        tool, _ = await _register(first, "rabbitmqcli-1", 33)
        assert [await _port_of(first, name) for name in ("one", "two")] == [11, 1002]
        assert [await _port_of(second, name) for name in ("one", "two")] == [1001, 22]
        assert await _port_of(second, "rabbitmqcli-1") == 33
        for writer in (one, two, tool):
            writer.close()


@pytest.mark.parametrize("request_", [b"", b"\x00", b"\x7a\xff\xfe"])
async def test_what_is_no_request_gets_no_answer(request_: bytes) -> None:
    [port] = choose_free(1)
    async with NameServer(port, {}, {}):
        assert await _ask(port, request_) == b""
        assert await _port_of(port, "one") is None
