"""A request as it will be sent: whatever could make it something else is refused here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urljoin

from pydantic import ValidationError
from pydantic_core import Url

from taskflow.outbound.errors import RedirectRefused, RequestRefused

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAX_URL_CHARACTERS = 8192
MAX_HEADERS = 64
MAX_HEADER_BYTES = 32 * 1024
LEAST_OPEN_PORT = 1024
WEB_PORTS = {"http": 80, "https": 443}

Header = tuple[str, str]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Blanks, control characters and backslashes: parsers differ in what they make of them.
_DOUBTFUL = re.compile(r"[\x00-\x20\x7f\\]")
_WITH_HOST = re.compile(r"https?://(?P<authority>[^/?#]+)", re.IGNORECASE)
# What says where a message goes and where it ends is ours to say.
_OUR_OWN = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"),
        *("expect", "keep-alive", "proxy-connection", "proxy-authorization", "http2-settings"),
    }
)
# What another origin may see of a redirected request; any other header may be a credential.
_FOR_ANYBODY = frozenset({"accept", "accept-language", "user-agent"})
_ABOUT_THE_BODY = frozenset({"content-type", "content-language", "content-encoding"})
_BECOMES_GET = frozenset({301, 302, 303})


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a URL leads, taken apart once. `host` is a name, or an address in its normal form."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two URLs share that belong to one server."""
        return (self.scheme, self.host, self.port)

    @property
    def host_header(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == WEB_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.target}"


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request that has been checked; made by `outbound_request`."""

    method: str
    to: Destination
    headers: tuple[Header, ...]
    body: bytes


def outbound_request(
    method: str, url: str, headers: Iterable[Header] = (), body: bytes = b""
) -> OutboundRequest:
    """The request, if it can be sent.

    Raises:
        RequestRefused: the method, the URL or a header isn't one that we send.
    """
    if method not in METHODS:
        raise RequestRefused(f"The method {method!r} is none of {', '.join(sorted(METHODS))}.")
    return OutboundRequest(method, destination(url), _checked_headers(headers), body)


def destination(url: str) -> Destination:
    """Where `url` leads.

    Hosts such as `0x7f.1`, `2130706433` and `①.①.①.①` are the addresses that browsers take them
    for, and are checked as such.

    Raises:
        RequestRefused: it is no URL of the web, holds credentials, or names another port.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise RequestRefused(f"The URL has more than {MAX_URL_CHARACTERS} characters.")
    if _DOUBTFUL.search(url):
        raise RequestRefused(
            "The URL holds a blank, a control character or a backslash; write it percent-encoded."
        )
    if (found := _WITH_HOST.match(url)) is None:
        raise RequestRefused("The URL must begin with http:// or https:// and name a host.")
    try:
        parsed = Url(url)
    except ValidationError as error:
        raise RequestRefused(f"The URL can't be read: {error.errors()[0]['msg']}.") from None
    if not parsed.host or not parsed.port:
        raise RequestRefused("The URL names no host, or the port 0.")
    if parsed.username or parsed.password or "@" in found["authority"]:
        raise RequestRefused(
            "The URL holds a user name or a password; send an Authorization header instead."
        )
    if parsed.port < LEAST_OPEN_PORT and parsed.port not in WEB_PORTS.values():
        raise RequestRefused(
            f"Port {parsed.port} belongs to another protocol; 80, 443 and those from"
            f" {LEAST_OPEN_PORT} up are open."
        )
    query = "" if parsed.query is None else f"?{parsed.query}"
    target = (parsed.path or "/") + query
    return Destination(parsed.scheme, parsed.host.strip("[]"), parsed.port, target)


def _checked_headers(headers: Iterable[Header]) -> tuple[Header, ...]:
    # Blanks around a value are none of it, and the library's refusal would quote it.
    kept = tuple((name, value.strip(" \t")) for name, value in headers)
    if len(kept) > MAX_HEADERS or sum(len(n) + len(v) for n, v in kept) > MAX_HEADER_BYTES:
        raise RequestRefused(f"At most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes are sent.")
    for name, value in kept:
        if not _TOKEN.fullmatch(name):
            raise RequestRefused(f"{name[:100]!r} is not a header's name.")
        if name.lower() in _OUR_OWN:
            raise RequestRefused(f"The header {name!r} is set by TaskFlow itself.")
        if not _HEADER_VALUE.fullmatch(value):
            # Not the value: it may be a secret.
            raise RequestRefused(
                f"The header {name!r} holds a line break, another control character, or one"
                " beyond Latin-1."
            )
    return kept


def redirected(request: OutboundRequest, status: int, location: str) -> OutboundRequest:
    """The request that an answer with `status` and `location` asks for.

    Another origin gets no header that could be a credential, and no body.

    Raises:
        RedirectRefused: it would leave https, or take the body to another origin.
        RequestRefused: the new URL isn't one that we send to.
    """
    try:
        to = destination(urljoin(str(request.to), location))
    except ValueError:
        raise RedirectRefused("The answer redirects to what is no URL.") from None
    if request.to.scheme == "https" and to.scheme == "http":
        raise RedirectRefused("The answer redirects from https to http, which is not followed.")
    is_elsewhere = to.origin != request.to.origin
    method, headers, body = request.method, request.headers, request.body
    if status in _BECOMES_GET and method != "HEAD":
        method, body = "GET", b""
        headers = tuple(each for each in headers if each[0].lower() not in _ABOUT_THE_BODY)
    if is_elsewhere and body:
        raise RedirectRefused(
            f"The answer ({status}) redirects the body to another origin, which is not followed;"
            " call that URL itself."
        )
    if is_elsewhere:
        headers = tuple(each for each in headers if each[0].lower() in _FOR_ANYBODY)
    return OutboundRequest(method, to, headers, body)
