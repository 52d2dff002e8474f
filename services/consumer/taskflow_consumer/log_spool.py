"""Log objects on the disk of a worker while they can't be stored: a file each, a folder a process.

A process holds a lock on its folder for as long as it lives, so that others leave it alone; what a
dead one has left is anybody's. A file has its name when it is complete, and carries a checksum.
Nothing is synced: the end of a process, however sudden, loses no file, and the end of a machine
loses some seconds of logs with or without a sync; what it leaves half written is found out.
All of this blocks: it is called in threads.
"""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from taskflow.jobs.log_index import LogChunk, StoredLogRange
from taskflow_consumer.log_objects import LogObject

_SUFFIX = ".lines"
_LOCK = "lock"
_UNFINISHED = ".part"
_BEING_MADE = "."


class SpoolDamaged(Exception):
    """A file isn't what was once written."""


@dataclass(frozen=True, slots=True)
class SpoolFolder:
    """A folder under our lock."""

    path: Path
    lock: int

    def files(self) -> list[Path]:
        """Its complete files, the oldest first."""
        return sorted(self.path.glob(f"*{_SUFFIX}"))

    def clear_unfinished(self) -> int:
        """Delete what its process was still writing when it died; how many bytes."""
        size = 0
        for path in self.path.glob(f"*{_UNFINISHED}"):
            size += path.stat().st_size
            path.unlink()
        return size

    def write(self, item: LogObject) -> Path:
        """Put an object into a file; again replaces it. Which one it is.

        Raises:
            OSError: there is no room, or no right to.
        """
        path = self.path / f"{item.sequence:08d}{_SUFFIX}"
        handle, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=self.path)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_head(item))
                file.write(item.data)
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        return path

    def leave(self) -> None:
        """Let go of it; it is deleted if nothing is in it."""
        try:
            if not self.files():
                shutil.rmtree(self.path, ignore_errors=True)
        finally:
            os.close(self.lock)


class LogSpool:
    """The folder in which the processes of this host have theirs; together at most `max_bytes`.

    Several that write at the same time may pass it by what each of them writes at once.
    """

    def __init__(self, directory: Path, worker_id: UUID, max_bytes: int) -> None:
        self._directory = directory.absolute()
        self._name = str(worker_id)
        self._max_bytes = max_bytes

    def make_folder(self) -> SpoolFolder:
        """This process's own.

        Raises:
            OSError: it can't be made.
        """
        # Under a name that nobody looks at until it is locked.
        draft = self._directory / f"{_BEING_MADE}{self._name}"
        draft.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _locked(draft / _LOCK, os.O_CREAT)
        if lock is None:
            raise BlockingIOError(f"{draft} is locked")
        path = self._directory / self._name
        try:
            draft.rename(path)
        except BaseException:
            os.close(lock)
            raise
        return SpoolFolder(path, lock)

    def require_room(self, size: int) -> None:
        """Raise OSError unless so many bytes more are within the limit."""
        used = self.used_bytes()
        if used + size > self._max_bytes:
            reason = f"{used} of its {self._max_bytes} bytes are used"
            raise OSError(errno.EDQUOT, reason, str(self._directory))

    def used_bytes(self) -> int:
        """What all the files take."""
        return sum(_size(path) for folder in self._folders() for path in folder.glob("*.*"))

    def adopt(self, gone_through: Collection[Path] = ()) -> SpoolFolder | None:
        """A folder whose process is dead, ours from now on; None: there is none but these."""
        for path in sorted(self._folders()):
            if path.name == self._name or path in gone_through:
                continue
            lock = _locked(path / _LOCK, 0)
            if lock is None:
                continue
            if (path / _LOCK).exists():
                return SpoolFolder(path, lock)
            os.close(lock)  # Somebody was faster, and is through with it.
        return None

    def _folders(self) -> Iterator[Path]:
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in self._directory.iterdir():
                if path.is_dir() and not path.name.startswith(_BEING_MADE):
                    yield path


def read(path: Path) -> LogObject:
    """The object in a file.

    Raises:
        SpoolDamaged: it isn't whole.
        OSError: it can't be read.
    """
    head, _, data = path.read_bytes().partition(b"\n")
    try:
        told = json.loads(head)
        whole = (told["bytes"], told["crc32"]) == (len(data), zlib.crc32(data))
        item = LogObject(
            told["sequence"],
            told["key"],
            data,
            [_chunk(told["key"], each) for each in told["chunks"]],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise SpoolDamaged(f"{path.name}: {type(error).__name__}") from error
    if not whole:
        raise SpoolDamaged(f"{path.name}: {len(data)} bytes that are not what was written")
    return item


def _head(item: LogObject) -> bytes:
    told = {
        "sequence": item.sequence,
        "key": item.key,
        "bytes": len(item.data),
        "crc32": zlib.crc32(item.data),
        "chunks": [
            {
                "tenant_id": str(chunk.tenant_id),
                "job_id": str(chunk.job_id),
                "attempt": chunk.attempt,
                "offset": chunk.stored.byte_offset,
                "length": chunk.stored.byte_length,
                "lines": chunk.line_count,
            }
            for chunk in item.chunks
        ],
    }
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _chunk(key: str, told: dict[str, Any]) -> LogChunk:
    return LogChunk(
        UUID(told["tenant_id"]),
        UUID(told["job_id"]),
        int(told["attempt"]),
        StoredLogRange(key, int(told["offset"]), int(told["length"])),
        int(told["lines"]),
    )


def _locked(path: Path, flags: int) -> int | None:
    """The file open and locked by us; None: it isn't there, or others hold it."""
    try:
        descriptor = os.open(path, os.O_RDWR | flags, 0o600)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
