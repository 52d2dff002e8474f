"""What is refused before anything is sent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow.outbound.errors import RedirectRefused, RequestRefused
from taskflow.outbound.requests import (
    METHODS,
    OutboundRequest,
    destination,
    outbound_request,
    redirected,
)

unhurried = settings(deadline=None)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://2130706433/", "127.0.0.1"),
        ("http://0177.0.0.1/", "127.0.0.1"),
        ("http://0x7f.1/", "127.0.0.1"),
        ("http://0x7f000001/", "127.0.0.1"),
        ("http://127.1/", "127.0.0.1"),
        ("http://①②⑦.0.0.1/", "127.0.0.1"),
        ("http://%31%32%37.0.0.1/", "127.0.0.1"),
        ("http://[::FFFF:127.0.0.1]/", "::ffff:7f00:1"),
        ("http://0/", "0.0.0.0"),  # noqa: S104 - nothing listens
        ("HTTP://EXAMPLE.com", "example.com"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
    ],
)
def test_a_host_in_its_normal_form(url: str, host: str) -> None:
    assert destination(url).host == host


def test_a_url_is_taken_apart() -> None:
    to = destination("https://Example.com:8443/a%20b/ü?x=1&y=%0d%0a#part")
    assert to.origin == ("https", "example.com", 8443)
    assert to.host_header == "example.com:8443"
    assert to.target == "/a%20b/%C3%BC?x=1&y=%0d%0a"
    assert destination("http://[2606:4700::1]:8100").host_header == "[2606:4700::1]:8100"
    assert destination("http://[2606:4700::1]/").host_header == "[2606:4700::1]"


@pytest.mark.parametrize(
    "url",
    [
        *("", "http://", "http:///x", "http:x", "//example.com/", "example.com", "http://?x"),
        *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:1"),
        *("http://user:password@example.com/", "http://user@example.com/", "http://@example.com/"),
        *("http://example.com:0/", "http://example.com:22/", "http://example.com:25/"),
        *(
            "http://example.com:99999/",
            "http://[::1",
            "http://[fe80::1%25eth0]/",
            "http://1.2.3.4.5/",
        ),
        *(
            "http://exam\tple.com/",
            "http://example.com/\r\nX: y",
            "http://example.com\\@evil.example/",
        ),
        *(" http://example.com/", "http://example.com/a b", "http://example.com/\x00"),
        "http://example.com/" + "x" * 8192,
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(RequestRefused):
        destination(url)


@unhurried
@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://", "http://[", "HTTPS://a:"]))
def test_any_text_is_a_destination_or_refused(text: str, prefix: str) -> None:
    try:
        to = destination(prefix + text)
    except RequestRefused:
        return
    assert to.scheme in {"http", "https"}
    assert to.port in {80, 443} or to.port >= 1024
    assert to.target.startswith("/")
    assert to.target.isascii()
    assert to.target.isprintable()
    assert " " not in to.target
    assert "@" not in to.host
    # What is sent is what was checked, however often it is read.
    assert destination(str(to)) == to


@unhurried
@given(st.text(max_size=20), st.text(max_size=20))
def test_no_header_can_begin_another_line(name: str, value: str) -> None:
    try:
        request = outbound_request("GET", "http://example.com/", [(name, value)])
    except RequestRefused:
        return
    written = "".join(f"{name}: {value}" for name, value in request.headers)
    assert not set(written) & set("\r\n\0")
    assert name.isascii()


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Expect", "", "a b"]
)
def test_headers_that_are_ours(name: str) -> None:
    with pytest.raises(RequestRefused):
        outbound_request("GET", "http://example.com/", [(name, "x")])


def test_a_refused_header_keeps_its_value_to_itself() -> None:
    with pytest.raises(RequestRefused) as refused:
        outbound_request("GET", "http://example.com/", [("X-Key", "canary\r\nX: y")])
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "GET / HTTP/1.1\r\nX:", ""])
def test_methods_that_are_refused(method: str) -> None:
    with pytest.raises(RequestRefused):
        outbound_request(method, "http://example.com/")


def _request(method: str = "POST", url: str = "https://a.example/x") -> OutboundRequest:
    headers = [
        ("Authorization", "Bearer x"),
        ("X-Api-Key", "k"),
        ("Accept", "text/plain"),
        ("Content-Type", "text/plain"),
    ]
    return outbound_request(method, url, headers, b"body" if method == "POST" else b"")


def test_a_redirect_within_the_origin_keeps_everything() -> None:
    again = redirected(_request(), 307, "/y?z")
    assert (again.method, again.to.target, again.body) == ("POST", "/y?z", b"body")
    assert again.headers == _request().headers


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirected_post_becomes_a_get_without_its_body(status: int) -> None:
    again = redirected(_request(), status, "y")
    assert (again.method, again.to.target, again.body) == ("GET", "/y", b"")
    assert "Content-Type" not in dict(again.headers)
    assert "Authorization" in dict(again.headers)


@pytest.mark.parametrize(
    "location",
    ["https://b.example/", "//b.example/", "https://a.example:8443/", "https://a.example.evil/"],
)
def test_another_origin_sees_no_credentials(location: str) -> None:
    again = redirected(_request("GET"), 302, location)
    assert dict(again.headers) == {"Accept": "text/plain"}
    with pytest.raises(RedirectRefused, match="body"):
        redirected(_request("POST"), 307, location)


@pytest.mark.parametrize(
    "location", ["http://a.example/x", "http://b.example/", "http://[", "file:///etc/passwd"]
)
def test_redirects_that_are_refused(location: str) -> None:
    with pytest.raises((RedirectRefused, RequestRefused)):
        redirected(_request("GET"), 302, location)


@unhurried
@given(st.sampled_from(sorted(METHODS)), st.sampled_from([301, 302, 303, 307, 308]), st.text())
def test_no_redirect_takes_credentials_elsewhere(method: str, status: int, location: str) -> None:
    request = _request(method)
    try:
        again = redirected(request, status, location)
    except (RedirectRefused, RequestRefused):
        return
    assert again.to.scheme == "https"
    if again.to.origin != request.to.origin:
        assert not {"Authorization", "X-Api-Key"} & set(dict(again.headers))
        assert not again.body
