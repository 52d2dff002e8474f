"""The body of an answer, decoded as it comes and never beyond a bound."""

import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from taskflow.outbound.errors import AnswerMalformed

ACCEPTED_ENCODINGS = "gzip, deflate"
_GZIP_WINDOW = zlib.MAX_WBITS | 16
_MOST_OVERHEAD_BYTES = 64 * 1024
"""How much more than its content the encoded form of a body may take."""


@dataclass(frozen=True, slots=True)
class Body:
    """What was read; `is_truncated`: there was more."""

    content: bytes
    is_truncated: bool


class Decoder(Protocol):
    """Undoes a content encoding."""

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        """What `data` adds, at most `max_bytes` of it; what is more is dropped."""

    @property
    def is_complete(self) -> bool:
        """Whether the body may end here."""


class Plain:
    """No encoding, or one that is left as it is."""

    is_complete = True

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        """The data itself."""
        return data[:max_bytes]


class Inflated:
    """gzip, of several members too, and deflate with or without its zlib header."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._inflater = zlib.decompressobj(_GZIP_WINDOW if is_gzip else zlib.MAX_WBITS)
        self._has_begun = False

    @property
    def is_complete(self) -> bool:
        """Whether the stream has come to its end, or never began."""
        return self._inflater.eof or not self._has_begun

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        """What `data` inflates to.

        Raises:
            zlib.error: it is no such data.
        """
        kept = bytearray()
        while data and len(kept) < max_bytes:
            if self._inflater.eof:
                if not self._is_gzip:
                    break
                self._inflater = zlib.decompressobj(_GZIP_WINDOW)
            kept += self._inflate(data, max_bytes - len(kept))
            data = self._inflater.unused_data if self._inflater.eof else b""
        return bytes(kept)

    def _inflate(self, data: bytes, max_bytes: int) -> bytes:
        is_first, self._has_begun = not self._has_begun, True
        try:
            return self._inflater.decompress(data, max_bytes)
        except zlib.error:
            if self._is_gzip or not is_first:
                raise
            # Some servers leave out the header.
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._inflater.decompress(data, max_bytes)


def decoder(content_encoding: str | None) -> Decoder:
    """What undoes this encoding; one that we haven't asked for is left as it is."""
    match (content_encoding or "").strip().lower():
        case "gzip" | "x-gzip":
            return Inflated(is_gzip=True)
        case "deflate":
            return Inflated(is_gzip=False)
    return Plain()


async def read_body(
    chunks: AsyncIterator[bytes], content_encoding: str | None, max_bytes: int
) -> Body:
    """At most `max_bytes` of the body, decoded. Reads no further than it must.

    Raises:
        AnswerMalformed: it isn't encoded as it says.
    """
    decoding = decoder(content_encoding)
    kept, taken_bytes = bytearray(), 0
    try:
        async for chunk in chunks:
            taken_bytes += len(chunk)
            # One byte beyond the bound tells that there is more.
            kept += decoding.decode(chunk, max_bytes + 1 - len(kept))
            if len(kept) > max_bytes or taken_bytes > max_bytes + _MOST_OVERHEAD_BYTES:
                return Body(bytes(kept[:max_bytes]), is_truncated=True)
    except zlib.error as error:
        raise AnswerMalformed(f"The body is not {content_encoding}: {error}.") from None
    if not decoding.is_complete:
        raise AnswerMalformed(f"The body, {content_encoding}, is cut short.")
    return Body(bytes(kept), is_truncated=False)
