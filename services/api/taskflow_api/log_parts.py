"""What of a log is to be shown, and how: chunk by chunk, without touching the object store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from taskflow.jobs.log_index import LogChunk
from taskflow.log_lines import render_json, render_text


class LogFormat(StrEnum):
    """The forms of a log, by media type."""

    TEXT = "text/plain"
    JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class LogPart:
    """A chunk without its first `skip_lines` lines, under a heading where an attempt begins."""

    chunk: LogChunk
    form: LogFormat
    heading: bytes
    skip_lines: int

    @property
    def known_size(self) -> int | None:
        """The length of the rendered part in bytes, where it can be told before it is read."""
        if self.form is LogFormat.JSON_LINES and not self.skip_lines:
            return self.chunk.stored.byte_length
        return None

    def render(self, stored: bytes) -> bytes:
        """The part as it is shown."""
        if self.known_size is not None:
            return stored
        lines = stored.split(b"\n", self.skip_lines)[-1]
        if self.form is LogFormat.JSON_LINES:
            return lines
        return self.heading + b"".join(map(render_text, lines.splitlines()))

    def render_missing(self) -> bytes:
        """What is shown where the object is gone: one line, of just the size that was promised."""
        count = self.chunk.line_count - self.skip_lines
        message = f"… {count} {'line is' if count == 1 else 'lines are'} missing: no longer stored"
        line = render_json(
            datetime.now(UTC),
            level="warning",
            logger="taskflow",
            attempt=self.chunk.attempt,
            message=message,
            fields={},
        )
        if self.form is LogFormat.TEXT:
            return self.heading + render_text(line)
        size = self.known_size
        if size is None:
            return line
        # A single short line leaves room for no more than the shortest notice.
        notices = (line[:-1], b'{"level":"warning","message":"missing: no longer stored"}')
        fitting = next((notice for notice in notices if len(notice) < size), b"")
        return fitting.ljust(size - 1) + b"\n"


def plan(chunks: Sequence[LogChunk], form: LogFormat, tail: int | None) -> list[LogPart]:
    """The parts of the whole log, or of its last `tail` lines, in the order of `chunks`."""
    surplus = 0
    if tail is not None:
        chunks, surplus = _last(chunks, tail)
    has_headings = form is LogFormat.TEXT and len({chunk.attempt for chunk in chunks}) > 1
    parts: list[LogPart] = []
    for chunk in chunks:
        begins = not parts or parts[-1].chunk.attempt != chunk.attempt
        heading = f"--- attempt {chunk.attempt} ---\n".encode() if has_headings and begins else b""
        parts.append(LogPart(chunk, form, heading, 0 if parts else surplus))
    return parts


def _last(chunks: Sequence[LogChunk], count: int) -> tuple[Sequence[LogChunk], int]:
    """The last chunks that hold `count` lines together, and how many lines they hold beyond it."""
    first = len(chunks)
    lines = 0
    while first > 0 and lines < count:
        first -= 1
        lines += chunks[first].line_count
    return chunks[first:], max(lines - count, 0)
