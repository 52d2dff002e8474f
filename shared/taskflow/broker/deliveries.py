"""Deliveries, taken out of what a connection reads, as many at once as have come.

aiormq reads each of a message's three frames by itself, passes it through a queue to its channel
and makes a task of the message, which together took a worker a fifth of what it spent on a job.
Here the deliveries of channels that somebody listens to are taken out on the way to aiormq, and
everything else goes on to it as it came.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pamqp.decode import field_table

CHANNEL_CLOSE, CHANNEL_CLOSE_OK = struct.pack(">HH", 20, 40), struct.pack(">HH", 20, 41)

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_FRAME = struct.Struct(">BHI")
_FRAME_END = bytes([0xCE])
_HEARTBEAT_FRAME = _FRAME.pack(_HEARTBEAT, 0, 0) + _FRAME_END
_DELIVER = struct.pack(">HH", 60, 60)
_LONG = struct.Struct(">Q")
_FLAGS = struct.Struct(">H")
_HAS_CONTENT_TYPE, _HAS_CONTENT_ENCODING, _HAS_HEADERS = 0x8000, 0x4000, 0x2000


@dataclass(slots=True)
class Delivery:
    """A message as it came, and the tag that settles it; `header` is its content header."""

    tag: int
    header: bytes = b""
    body: bytes = b""

    @property
    def headers(self) -> Mapping[str, object]:
        """The headers of its sender; where they can't be read, the bytes that should hold them."""
        try:
            return self._read_headers()
        except (ValueError, IndexError, RecursionError, struct.error):
            return {"unreadable": self.header}

    def _read_headers(self) -> Mapping[str, object]:
        (flags,) = _FLAGS.unpack_from(self.header, 12)
        if not flags & _HAS_HEADERS:
            return {}
        at = 14
        for earlier in (_HAS_CONTENT_TYPE, _HAS_CONTENT_ENCODING):
            if flags & earlier:
                at += 1 + self.header[at]
        _, headers = field_table(self.header[at:])
        return headers


Listener = Callable[[list[Delivery]], None]
"""Is called as the bytes are read, and must neither wait nor raise."""


def method_of(data: bytes, at: int = 0) -> bytes:
    """Which method a frame that begins at `at` is, if it is one."""
    return data[at + _FRAME.size : at + _FRAME.size + 4]


def method_frame(channel: int, method: bytes) -> bytes:
    """The frame of a method without arguments."""
    return _FRAME.pack(_METHOD, channel, len(method)) + method + _FRAME_END


class DeliveryTap:
    """Takes deliveries out of the bytes of one connection.

    `on_close` is called with the number of each channel that the broker closes, as that is read.
    """

    def __init__(self, on_close: Callable[[int], None] = lambda _: None) -> None:
        self.on_close = on_close
        self._listeners: dict[int, Listener] = {}
        self._incomplete: dict[int, Delivery] = {}
        self._rest = b""
        self._is_foreign = False

    def listen(self, channel: int, listener: Listener) -> None:
        """Hand the deliveries of a channel to `listener` from now on, until the channel ends."""
        self._listeners[channel] = listener

    def take(self, data: bytes) -> bytes:
        """Hand over what of `data` is for listeners; the rest, of whole frames."""
        if self._is_foreign:
            return data
        data = self._rest + data
        arrived: dict[int, list[Delivery]] = {}
        passed: list[bytes] = []
        begin = at = 0
        while len(data) - at >= _FRAME.size:
            kind, channel, size = _FRAME.unpack_from(data, at)
            end = at + _FRAME.size + size
            if kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
                # No AMQP: aiormq is to say so.
                self._is_foreign, at = True, len(data)
                break
            if end >= len(data):
                break
            if kind == _METHOD and method_of(data, at) == CHANNEL_CLOSE:
                self.on_close(channel)
            payload = data[at + _FRAME.size : end] if channel in self._listeners else None
            if payload is not None and self._is_taken(kind, channel, payload, arrived):
                passed.append(data[begin:at])
                begin = end + 1
            at = end + 1
        passed.append(data[begin:at])
        self._rest = data[at:]
        self._hand_over(arrived)
        # A connection that seems to be silent is given up.
        return b"".join(passed) or (_HEARTBEAT_FRAME if begin else b"")

    def _hand_over(self, arrived: Mapping[int, list[Delivery]]) -> None:
        for channel, deliveries in arrived.items():
            # What came before the end of its channel is in its queue again.
            if channel in self._listeners:
                self._listeners[channel](deliveries)

    def _is_taken(
        self, kind: int, channel: int, payload: bytes, arrived: dict[int, list[Delivery]]
    ) -> bool:
        if kind == _METHOD:
            return self._begins(channel, payload)
        delivery = self._incomplete.get(channel)
        if delivery is None:
            return False
        if kind == _HEADER:
            delivery.header = payload
        else:
            delivery.body += payload
        if len(delivery.body) >= _LONG.unpack_from(delivery.header, 4)[0]:
            arrived.setdefault(channel, []).append(self._incomplete.pop(channel))
        return True

    def _begins(self, channel: int, payload: bytes) -> bool:
        method = payload[:4]
        if method == _DELIVER:
            (tag,) = _LONG.unpack_from(payload, 5 + payload[4])
            self._incomplete[channel] = Delivery(tag)
            return True
        if method in (CHANNEL_CLOSE, CHANNEL_CLOSE_OK):
            # Another one may have its number from now on.
            del self._listeners[channel]
            self._incomplete.pop(channel, None)
        return False
