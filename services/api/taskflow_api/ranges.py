"""One range of bytes, as HTTP asks for it (RFC 9110, section 14)."""

import re
from dataclasses import dataclass

from taskflow.errors import TaskFlowError

# Nineteen digits hold any length there is; more would only be work.
_BYTES = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE | re.ASCII)


class RangeNotSatisfiable(TaskFlowError):
    """The range lies beyond the end; `total_bytes` is the length there is."""

    def __init__(self, total_bytes: int) -> None:
        super().__init__(f"The range lies beyond the end: there are {total_bytes} bytes.")
        self.total_bytes = total_bytes


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from `begin` up to, but without, `end`."""

    begin: int
    end: int

    def content_range(self, total_bytes: int) -> str:
        """The value of the header Content-Range."""
        return f"bytes {self.begin}-{self.end - 1}/{total_bytes}"


@dataclass(frozen=True, slots=True)
class RequestedRange:
    """`first-last`, `first-` (`last` is None) or the last `last` bytes (`first` is None)."""

    first: int | None
    last: int | None

    def within(self, total_bytes: int) -> ByteRange:
        """The part of it that there is.

        Raises:
            RangeNotSatisfiable: there is none.
        """
        if self.first is None:
            begin, end = max(total_bytes - (self.last or 0), 0), total_bytes
        else:
            begin = self.first
            end = total_bytes if self.last is None else min(self.last + 1, total_bytes)
        if begin >= end:
            raise RangeNotSatisfiable(total_bytes)
        return ByteRange(begin, end)


def parse_range(header: str | None) -> RequestedRange | None:
    """The range that a Range header asks for.

    None when it is to be ignored: absent, malformed, of another unit, or several ranges at once.
    """
    found = _BYTES.fullmatch(header.strip()) if header else None
    if not found:
        return None
    first, last = (int(digits) if digits else None for digits in found.groups())
    if first is None and last is None:
        return None
    if first is not None and last is not None and last < first:
        return None
    return RequestedRange(first, last)
