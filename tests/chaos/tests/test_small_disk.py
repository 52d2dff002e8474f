"""A disk that can be filled."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_chaos.errors import CannotRun
from taskflow_chaos.small_disk import fill, free_bytes, make_room, small_disk
from taskflow_testing.run_folders import unmount_below


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    try:
        with small_disk(path, mib=4):
            yield path
    except CannotRun as error:
        pytest.skip(str(error))


def test_a_full_disk_takes_nothing_until_there_is_room(disk: Path) -> None:
    fill(disk)
    assert free_bytes(disk) == 0
    with pytest.raises(OSError, match="No space left") as refusal:
        (disk / "file").write_bytes(b"x")
    assert refusal.value.errno == errno.ENOSPC
    make_room(disk)
    (disk / "file").write_bytes(b"x" * 1_000_000)


def test_what_becomes_free_is_filled_again(disk: Path) -> None:
    (disk / "file").write_bytes(b"x" * 100_000)
    fill(disk)
    (disk / "file").unlink()
    assert free_bytes(disk) > 0
    fill(disk)
    assert free_bytes(disk) == 0


def test_it_is_gone_afterwards_also_where_somebody_still_works_in_it(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    try:
        with small_disk(path, mib=4):
            worker = subprocess.Popen(
                [sys.executable, "-c", "input()"], cwd=path, stdin=subprocess.PIPE
            )
    except CannotRun as error:
        pytest.skip(str(error))
    try:
        assert not path.is_mount()
    finally:
        worker.communicate(b"\n")


def test_what_a_killed_suite_has_mounted_is_unmounted_by_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "disk"
    kept = tmp_path / "other"
    try:
        with small_disk(path, mib=4), small_disk(kept, mib=4):
            unmount_below(tmp_path / "run")
            assert not path.is_mount()
            assert kept.is_mount()
    except CannotRun as error:
        pytest.skip(str(error))
