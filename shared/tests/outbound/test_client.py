"""The client against real servers: well-behaved ones, and such as lie, drip and never end."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address, ip_network

import pytest

from taskflow.outbound.addresses import AddressRule, IPAddress
from taskflow.outbound.answers import Answer
from taskflow.outbound.bodies import decoder
from taskflow.outbound.client import Limits, OutboundClient
from taskflow.outbound.errors import (
    AnswerMalformed,
    ConnectFailed,
    DestinationRefused,
    NameNotResolved,
    OutboundError,
    RedirectRefused,
    RequestRefused,
    TimedOut,
)
from taskflow.outbound.requests import outbound_request
from taskflow_testing.http_server import HttpServer, ReceivedRequest, http_answer

LOOPBACK = AddressRule([ip_network("127.0.0.1")])
SOON = Limits(connect_seconds=0.3, total_seconds=0.5, body_bytes=1000)


class Names:
    """A resolver whose answers are a script: one list of addresses after the other."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, _port: int, /) -> Sequence[IPAddress]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [ip_address(address) for address in answer]


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with HttpServer() as server:
        yield server


async def get(
    url: str,
    limits: Limits | None = None,
    *,
    rule: AddressRule = LOOPBACK,
    names: Names | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> Answer:
    client = OutboundClient(rule, resolver=names)
    return await client.send(outbound_request("GET", url, headers), limits or Limits())


async def test_a_request_and_its_answer(server: HttpServer) -> None:
    server.answer = http_answer(201, b"made", x_one="1")
    request = outbound_request("POST", f"{server.url}/a?b=c", [("X-Two", "é")], b"content")
    answer = await OutboundClient(LOOPBACK).send(request)
    assert (answer.status, answer.reason, answer.body) == (201, "Created", b"made")
    assert answer.header("x-one") == "1"
    assert not answer.is_truncated
    assert answer.url == f"{server.url}/a?b=c"
    assert 0 < answer.elapsed_seconds < 30
    (received,) = server.requests
    assert (received.method, received.target, received.body) == ("POST", "/a?b=c", b"content")
    assert received.headers["host"] == f"127.0.0.1:{server.port}"
    assert received.headers["x-two"] == "é"
    assert received.headers["content-length"] == "7"


async def test_the_name_stays_in_the_host_header(server: HttpServer) -> None:
    names = Names(["127.0.0.1"])
    answer = await get(f"http://inner.example:{server.port}/", names=names)
    assert answer.status == 200
    assert server.requests[0].headers["host"] == f"inner.example:{server.port}"
    assert names.asked == ["inner.example"]


async def test_loopback_is_closed_unless_it_is_opened(server: HttpServer) -> None:
    for host in ("127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "0"):
        with pytest.raises(DestinationRefused, match="TASKFLOW_OUTBOUND_ALLOWED_NETWORKS"):
            await get(f"http://{host}:{server.port}/", rule=AddressRule())
    assert server.requests == []


async def test_a_name_that_changes_its_answer_is_asked_once(server: HttpServer) -> None:
    rebinding = Names(["192.0.2.1"], ["127.0.0.1"])
    rule = AddressRule([ip_network("192.0.2.0/24")])
    with pytest.raises((ConnectFailed, TimedOut)):
        await get(f"http://evil.example:{server.port}/", SOON, rule=rule, names=rebinding)
    assert rebinding.asked == ["evil.example"]
    with pytest.raises(DestinationRefused):
        await get(f"http://evil.example:{server.port}/", SOON, rule=rule, names=rebinding)
    assert server.requests == []


async def test_one_inner_address_damns_a_name(server: HttpServer) -> None:
    mixed = Names(["127.0.0.1", "10.0.0.1"])
    with pytest.raises(DestinationRefused) as refused:
        await get(f"http://mixed.example:{server.port}/", names=mixed)
    assert "10.0.0.1" not in str(refused.value)
    assert server.requests == []


async def test_the_next_address_is_tried_when_one_is_dead(server: HttpServer) -> None:
    rule = AddressRule([ip_network("127.0.0.0/24")])
    names = Names(["127.0.0.9", "127.0.0.1"])
    answer = await get(f"http://twice.example:{server.port}/", rule=rule, names=names)
    assert answer.status == 200


async def test_proxies_of_the_environment_count_for_nothing(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    # It could make an exception of this machine, and nothing would be shown.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert (await get(server.url)).status == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_unasked(server: HttpServer, status: int) -> None:
    server.answer = http_answer(status, location="http://10.0.0.1/")
    answer = await get(server.url)
    assert (answer.status, answer.redirects) == (status, 0)


async def test_a_redirect_is_checked_anew() -> None:
    async with HttpServer() as first, HttpServer(host="127.0.0.2") as second:
        first.answer = http_answer(302, location=f"{second.url}/x")
        with pytest.raises(DestinationRefused):
            await get(first.url, Limits(redirects=3))
        assert second.requests == []
        rule = AddressRule([ip_network("127.0.0.0/24")])
        secret = [("Authorization", "Bearer canary"), ("Cookie", "canary"), ("X-Key", "canary")]
        answer = await get(first.url, Limits(redirects=3), rule=rule, headers=secret)
        assert (answer.url, answer.redirects) == (f"{second.url}/x", 1)
        assert "canary" in str(first.requests)
        assert "canary" not in str(second.requests)


async def test_a_redirect_of_a_public_name_to_loopback(server: HttpServer) -> None:
    server.answer = http_answer(302, location=f"http://localhost:{server.port}/admin")
    rebinding = Names(["127.0.0.1"], ["127.0.0.2"])
    with pytest.raises(DestinationRefused):
        await get(f"http://first.example:{server.port}/", Limits(redirects=1), names=rebinding)
    assert [request.target for request in server.requests] == ["/"]


async def test_redirects_are_bounded(server: HttpServer) -> None:
    server.answer = http_answer(302, location="/again")
    with pytest.raises(RedirectRefused, match="more than 3"):
        await get(server.url, Limits(redirects=3))
    assert len(server.requests) == 4


async def test_a_body_beyond_the_bound_is_cut_off(server: HttpServer) -> None:
    server.answer = http_answer(200, b"x" * 1001)
    answer = await get(server.url, SOON)
    assert answer.body == b"x" * 1000
    assert answer.is_truncated
    server.answer = http_answer(200, b"x" * 1000)
    assert not (await get(server.url, SOON)).is_truncated


async def test_a_body_without_an_end(server: HttpServer) -> None:
    async def endless(_: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()

    server.answer = endless
    answer = await get(server.url, Limits(body_bytes=100_000))
    assert answer.is_truncated
    assert len(answer.body) == 100_000


@pytest.mark.parametrize("piece", ["HTTP/1.1 200 OK\r\n", "X: y\r\n", "body"])
async def test_an_answer_that_drips_ends_with_the_total(server: HttpServer, piece: str) -> None:
    async def drip(_: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        before = {
            "HTTP/1.1 200 OK\r\n": b"",
            "X: y\r\n": b"HTTP/1.1 200 OK\r\n",
            "body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        }
        writer.write(before[piece])
        while True:
            for byte in piece.encode():
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.03)

    server.answer = drip
    started_at = asyncio.get_running_loop().time()
    with pytest.raises((TimedOut, AnswerMalformed)):
        await get(server.url, SOON)
    assert asyncio.get_running_loop().time() - started_at < 5


async def test_a_silent_server_ends_with_the_total(server: HttpServer) -> None:
    async def silent(_: ReceivedRequest, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server.answer = silent
    with pytest.raises(TimedOut, match=r"0\.5 s"):
        await get(server.url, SOON)


async def test_a_body_that_is_shorter_than_it_says(server: HttpServer) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"
    with pytest.raises(AnswerMalformed):
        await get(server.url)


async def test_a_body_that_is_longer_than_it_says(server: HttpServer) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"
    assert (await get(server.url)).body == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
    ],
)
async def test_what_is_no_http(server: HttpServer, answer: bytes) -> None:
    server.answer = answer
    with pytest.raises(AnswerMalformed):
        await get(server.url)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-gzip", "raw"])
async def test_an_encoded_body_is_decoded(server: HttpServer, encoding: str) -> None:
    content = b"hello " * 100
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    encoded = {
        "gzip": gzip.compress(content[:300]) + gzip.compress(content[300:]),
        "x-gzip": gzip.compress(content),
        "deflate": zlib.compress(content),
        "raw": raw.compress(content) + raw.flush(),
    }
    name = "deflate" if encoding == "raw" else encoding
    server.answer = http_answer(200, encoded[encoding], content_encoding=name)
    answer = await get(server.url)
    assert answer.body == content
    assert not answer.is_truncated


async def test_a_bomb_is_counted_by_what_it_inflates_to(server: HttpServer) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    server.answer = http_answer(200, bomb, content_encoding="gzip")
    answer = await get(server.url, Limits(body_bytes=10_000))
    assert len(answer.body) == 10_000
    assert answer.is_truncated
    # Nor is it inflated further than that before it is cut.
    assert len(decoder("gzip").decode(bomb, 10_000)) == 10_000


async def test_nothing_but_empty_members_has_an_end(server: HttpServer) -> None:
    server.answer = http_answer(200, gzip.compress(b"") * 50_000, content_encoding="gzip")
    answer = await get(server.url, Limits(body_bytes=10_000))
    assert (answer.body, answer.is_truncated) == (b"", True)


@pytest.mark.parametrize(
    "body", [b"no gzip at all", gzip.compress(b"hello" * 99)[:-9]], ids=["none", "cut"]
)
async def test_a_body_that_is_not_encoded_as_it_says(server: HttpServer, body: bytes) -> None:
    server.answer = http_answer(200, body, content_encoding="gzip")
    with pytest.raises(AnswerMalformed):
        await get(server.url)


async def test_an_encoding_that_nobody_asked_for_is_left_alone(server: HttpServer) -> None:
    server.answer = http_answer(200, b"\x8b\x02\x80hello\x03", content_encoding="br")
    answer = await get(server.url)
    assert answer.body.endswith(b"hello\x03")
    assert answer.header("Content-Encoding") == "br"


async def test_what_head_answers_has_no_body(server: HttpServer) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Encoding: gzip\r\n\r\n"
    request = outbound_request("HEAD", server.url)
    answer = await OutboundClient(LOOPBACK).send(request)
    assert (answer.status, answer.body) == (200, b"")


async def test_nobody_listens(server: HttpServer) -> None:
    url = server.url
    await server.__aexit__(None, None, None)
    with pytest.raises(ConnectFailed) as failed:
        await get(url)
    assert failed.value.is_retryable


async def test_a_name_without_addresses() -> None:
    with pytest.raises(NameNotResolved) as failed:
        await get("http://nobody.invalid/")
    assert failed.value.is_retryable
    with pytest.raises(NameNotResolved):
        await get("http://empty.example/", names=Names([]))


async def test_what_can_not_be_a_name() -> None:
    for host in ("a..example", "x" * 70 + ".example"):
        with pytest.raises(OutboundError) as failed:
            await get(f"http://{host}/")
        assert isinstance(failed.value, RequestRefused | NameNotResolved)


async def test_a_name_that_is_long_in_coming() -> None:
    class Slow(Names):
        async def resolve(self, _host: str, _port: int, /) -> Sequence[IPAddress]:
            await asyncio.sleep(60)
            return []

    with pytest.raises(TimedOut, match=r"0\.3 s"):
        await get("http://slow.example/", SOON, names=Slow())


async def test_a_client_that_is_stopped_closes_its_connection(server: HttpServer) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def drip(_: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        try:
            while True:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        except OSError:
            gone.set()

    server.answer = drip
    sending = asyncio.create_task(get(server.url))
    await arrived.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await asyncio.wait_for(gone.wait(), 10)


async def test_cookies_are_in_no_log(server: HttpServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server.answer = http_answer(200, b"canary", set_cookie="session=canary")
    await get(server.url, headers=[("Authorization", "canary")])
    assert "canary" not in caplog.text
