"""Certificates are those of the name that was asked for, whatever address answers."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address, ip_network

import pytest
import trustme

from taskflow.outbound.addresses import AddressRule, IPAddress
from taskflow.outbound.client import Limits, OutboundClient
from taskflow.outbound.errors import (
    CertificateRefused,
    ConnectFailed,
    OutboundError,
    RedirectRefused,
)
from taskflow.outbound.requests import outbound_request
from taskflow_testing.http_server import HttpServer, http_answer

LOOPBACK = AddressRule([ip_network("127.0.0.1")])


class AlwaysLoopback:
    async def resolve(self, _host: str, _port: int, /) -> Sequence[IPAddress]:
        return [ip_address("127.0.0.1")]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def server(authority: trustme.CA) -> AsyncIterator[HttpServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.example").configure_cert(context)
    async with HttpServer(tls=context) as server:
        yield server


@pytest.fixture
def client(authority: trustme.CA) -> OutboundClient:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return OutboundClient(LOOPBACK, resolver=AlwaysLoopback(), ssl_context=trusting)


async def test_the_certificate_of_the_name_is_accepted(
    server: HttpServer, client: OutboundClient
) -> None:
    url = f"https://shop.example:{server.port}/"
    answer = await client.send(outbound_request("GET", url))
    assert answer.body == b"hello"
    assert server.requests[0].headers["host"] == f"shop.example:{server.port}"


async def test_the_certificate_of_another_name_is_refused(
    server: HttpServer, client: OutboundClient
) -> None:
    for host in ("other.example", "127.0.0.1"):
        with pytest.raises(CertificateRefused) as refused:
            await client.send(outbound_request("GET", f"https://{host}:{server.port}/"))
        assert not refused.value.is_retryable
    assert server.requests == []


async def test_an_unknown_authority_is_refused(server: HttpServer) -> None:
    client = OutboundClient(LOOPBACK, resolver=AlwaysLoopback())
    with pytest.raises(CertificateRefused):
        await client.send(outbound_request("GET", f"https://shop.example:{server.port}/"))


async def test_no_redirect_leads_out_of_https(server: HttpServer, client: OutboundClient) -> None:
    server.answer = http_answer(302, location="http://shop.example/")
    request = outbound_request("GET", f"https://shop.example:{server.port}/")
    with pytest.raises(RedirectRefused):
        await client.send(request, Limits(redirects=5))


async def test_a_server_that_wants_a_certificate_of_ours(
    authority: trustme.CA, client: OutboundClient
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.example").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse_one, listener, context))
        url = f"https://shop.example:{listener.getsockname()[1]}/"
        with pytest.raises(ConnectFailed, match="CERTIFICATE_REQUIRED"):
            await client.send(outbound_request("GET", url))
        await refusing


def refuse_one(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Say why, as servers do that asyncio isn't beneath."""
    connection, _ = listener.accept()
    with context.wrap_socket(
        connection, server_side=True, do_handshake_on_connect=False
    ) as encrypted:
        with pytest.raises(ssl.SSLError):
            encrypted.do_handshake()
        with socket.socket(fileno=encrypted.detach()) as plain:
            while plain.recv(65_536):
                pass


async def test_a_server_without_tls(client: OutboundClient) -> None:
    async with HttpServer() as plain:
        request = outbound_request("GET", f"https://shop.example:{plain.port}/")
        with pytest.raises(OutboundError) as failed:
            await client.send(request, Limits(connect_seconds=0.3))
    assert failed.value.is_retryable
    assert plain.requests == []
