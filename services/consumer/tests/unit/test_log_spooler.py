"""What the spool does with files that can't be written, read or stored."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from taskflow_consumer import log_spool, log_spooler
from taskflow_consumer.log_backlog import Lines, Stretch
from taskflow_consumer.log_objects import Composer, LogObject
from taskflow_consumer.log_outage import Outage
from taskflow_consumer.log_spool import LogSpool
from taskflow_consumer.log_spooler import LogSpooler
from taskflow_testing.waiting import eventually

MEBIBYTE = 1024 * 1024


class Storage:
    """Keeps what it is given; a defect with those whose keys are in `breaks_at`."""

    def __init__(self, *breaks_at: str) -> None:
        self.breaks_at = breaks_at
        self.tried: list[str] = []
        self.stored: list[str] = []

    async def store(self, objects: Sequence[LogObject]) -> None:
        """Take objects like `LogStorage`."""
        for item in objects:
            self.tried.append(item.key)
            if item.key in self.breaks_at:
                raise LookupError("a defect")
            self.stored.append(item.key)


@pytest.fixture(autouse=True)
def _adopt_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_spooler, "ADOPT_EVERY_SECONDS", 0.02)


def composed(tenants: int = 1) -> list[LogObject]:
    """An object for each of so many tenants."""
    lines = Lines()
    lines.add(b"{}\n")
    return Composer(uuid7()).compose([Stretch(uuid7(), uuid7(), 1, lines) for _ in range(tenants)])


def left_by_a_dead_process(directory: Path) -> LogObject:
    (item,) = composed()
    folder = LogSpool(directory, uuid7(), MEBIBYTE).make_folder()
    folder.write(item)
    folder.leave()
    return item


@asynccontextmanager
async def spooler_at(directory: Path, storage: Any) -> AsyncIterator[LogSpooler]:
    spooler = LogSpooler(LogSpool(directory, uuid7(), MEBIBYTE), storage, Outage())
    spooler.start()
    try:
        yield spooler
    finally:
        await spooler.stop()


def kept(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.lines"))


async def is_true(look: Callable[[], object]) -> None:
    async def ask() -> bool:
        return bool(look())

    await eventually(ask)


async def test_a_file_that_meets_a_defect_is_tried_once_and_holds_up_no_other(
    tmp_path: Path,
) -> None:
    items = [left_by_a_dead_process(tmp_path) for _ in range(3)]
    # Folders are taken in the order of their names, which rise.
    storage = Storage(items[0].key)
    with capture_logs() as said:
        async with spooler_at(tmp_path, storage):
            await is_true(lambda: len(storage.stored) == 2)
            late = left_by_a_dead_process(tmp_path)
            await is_true(lambda: late.key in storage.stored)
    assert storage.tried.count(items[0].key) == 1
    assert [line["event"] for line in said].count("log_spool_file_left") == 1
    (left,) = kept(tmp_path)
    assert log_spool.read(left) == items[0]


async def test_a_file_that_can_not_be_read_now_is_left_to_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = left_by_a_dead_process(tmp_path)

    def no_descriptor_is_free(path: Path) -> LogObject:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patched, capture_logs() as said:
        patched.setattr(log_spool, "read", no_descriptor_is_free)
        async with spooler_at(tmp_path, Storage()):
            await is_true(lambda: "log_spool_file_left" in [line["event"] for line in said])
    assert "log_lines_lost" not in [line["event"] for line in said]

    storage = Storage()
    async with spooler_at(tmp_path, storage):
        await is_true(lambda: storage.stored == [item.key])
        await is_true(lambda: not kept(tmp_path))


async def test_of_a_round_that_the_disk_refuses_nothing_stays_there(tmp_path: Path) -> None:
    hangs = asyncio.Event()

    class Hanging(Storage):
        async def store(self, objects: Sequence[LogObject]) -> None:
            del objects
            await hangs.wait()

    async with spooler_at(tmp_path, Hanging()) as spooler:
        first, second, third = composed(3)
        assert await spooler.keep([first])
        (path,) = kept(tmp_path)
        in_the_way = path.with_name(f"{third.sequence:08d}.lines")
        in_the_way.mkdir()
        with capture_logs():
            assert not await spooler.keep([second, third])
        assert kept(tmp_path) == [path, in_the_way]
        in_the_way.rmdir()
        assert await spooler.keep([second, third])
        assert len(kept(tmp_path)) == 3
