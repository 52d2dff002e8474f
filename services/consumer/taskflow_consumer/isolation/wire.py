"""Frames between the consumer and an isolated child: a JSON object and a blob of bytes.

No pickles: what a job's process sends is data to its consumer, never code.
"""

import asyncio
import json
import socket
import struct
from typing import Any

MAX_HEAD_BYTES = 64 * 1024 * 1024
MAX_BODY_BYTES = 1024 * 1024 * 1024

_LENGTHS = struct.Struct("!II")

Frame = tuple[dict[str, Any], bytes]


class WireError(ValueError):
    """A frame that is too large, or is none."""


def encode(head: dict[str, Any], body: bytes = b"") -> bytes:
    """A frame's bytes.

    Raises:
        WireError: it is too large.
    """
    # JSON's own escapes carry what is no UTF-8, such as lone surrogates.
    head_bytes = json.dumps(head, separators=(",", ":")).encode("ascii")
    if len(head_bytes) > MAX_HEAD_BYTES or len(body) > MAX_BODY_BYTES:
        raise WireError(
            f"{len(head_bytes) + len(body)} bytes are too much at once; files of any size can be"
            " passed by their path"
        )
    return _LENGTHS.pack(len(head_bytes), len(body)) + head_bytes + body


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end of the stream, even in the middle of a frame.

    Raises:
        WireError: it is none.
    """
    try:
        head_length, body_length = _checked(await reader.readexactly(_LENGTHS.size))
        head = await reader.readexactly(head_length)
        return _decoded(head), await reader.readexactly(body_length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def receive_frame(connection: socket.socket) -> Frame | None:
    """The next frame of a blocking socket, as `read_frame`."""
    try:
        head_length, body_length = _checked(_receive(connection, _LENGTHS.size))
        head = _receive(connection, head_length)
        return _decoded(head), _receive(connection, body_length)
    except (EOFError, ConnectionError):
        return None


def _receive(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        received = connection.recv_into(view)
        if not received:
            raise EOFError
        view = view[received:]
    return bytes(data)


def _checked(lengths: bytes) -> tuple[int, int]:
    head_length, body_length = _LENGTHS.unpack(lengths)
    if head_length > MAX_HEAD_BYTES or body_length > MAX_BODY_BYTES:
        raise WireError(f"a frame of {head_length} + {body_length} bytes")
    return head_length, body_length


def _decoded(head: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(head)
    except ValueError as error:
        raise WireError(f"no JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise WireError("no JSON object")
    return decoded
