"""A disk of a few MiB that can be filled to its last byte: a tmpfs, which only root can mount."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from taskflow_chaos.errors import CannotRun
from taskflow_testing.run_folders import unmount_below

_BALLAST = "ballast"
_CHUNKS = (1024 * 1024, 4096)


@contextlib.contextmanager
def small_disk(path: Path, mib: int) -> Iterator[None]:
    """A disk of its own at `path` during the block. What is on it is gone afterwards.

    Where the suite is killed its reaper unmounts it.

    Raises:
        CannotRun: we may not mount here.
    """
    path.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", str(path)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        raise CannotRun(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        unmount_below(path)


def fill(path: Path) -> None:
    """Leave no room on the disk at `path`; again fills what has become free."""
    with (path / _BALLAST).open("ab") as ballast:
        for chunk in _CHUNKS:
            with contextlib.suppress(OSError):  # it is full: what we are after
                while True:
                    size = os.fstat(ballast.fileno()).st_size
                    os.posix_fallocate(ballast.fileno(), size, chunk)


def make_room(path: Path) -> None:
    """Undo `fill`."""
    (path / _BALLAST).unlink()


def free_bytes(path: Path) -> int:
    """How much room there is."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize
