"""Logs that wait on disk while they can't be stored: in order, bounded, and through deaths."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from taskflow.db.roles import DatabaseRole
from taskflow.sdk.context import AttemptLog
from taskflow_consumer import log_spooler
from taskflow_consumer.log_backlog import Lines, Stretch
from taskflow_consumer.log_objects import Composer, LogObject
from taskflow_consumer.log_shipper import LogShipper
from taskflow_consumer.log_spool import LogSpool, SpoolDamaged, read
from taskflow_testing.clients import open_pool, open_store
from taskflow_testing.object_store import TestBucket
from taskflow_testing.waiting import eventually

from .log_shipping import Setup, Shippers, write

MEBIBYTE = 1024 * 1024


@pytest.fixture(autouse=True)
def _adopt_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_spooler, "ADOPT_EVERY_SECONDS", 0.1)


def spool(folder: Path, max_bytes: int = 64 * MEBIBYTE) -> LogSpool:
    return LogSpool(folder, uuid7(), max_bytes)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.lines"))


async def spooled(folder: Path, text: str) -> None:
    """Return when a line with this text lies in the spool."""

    async def look() -> bool:
        return any(text.encode() in path.read_bytes() for path in files(folder))

    await eventually(look)


async def is_clear(folder: Path) -> None:
    """Return when no file is left in the spool."""

    async def look() -> bool:
        return not files(folder)

    await eventually(look, timeout=30)


async def write_in_turns(log: AttemptLog, folder: Path, count: int) -> list[str]:
    """Lines that go into files of their own."""
    messages = [f"line {number}" for number in range(count)]
    for message in messages:
        write(log, message)
        await spooled(folder, f'"{message}"')
    return messages


@pytest.mark.parametrize("away", ["s3", "database"])
async def test_what_is_logged_in_an_outage_lies_on_disk_and_is_stored_after_it_in_order(
    setup: Setup, shippers: Shippers, tmp_path: Path, away: str
) -> None:
    job = await setup.jobs.start()
    shipper = shippers.start(flush_seconds=0.1, spool=spool(tmp_path))
    log = shipper.open(job)
    write(log, "before")
    await setup.wait_for(job, "before")
    assert list(tmp_path.iterdir()) == []

    proxy = setup.s3 if away == "s3" else setup.database
    proxy.go_down()
    messages = await write_in_turns(log, tmp_path, 5)
    proxy.come_back()
    write(log, "after")
    await log.close()

    assert await setup.wait_for(job, "after") == ["before", *messages, "after"]
    await is_clear(tmp_path)
    again = shipper.open(job)
    write(again, "straight")
    await again.close()
    await setup.wait_for(job, "straight")


@pytest.mark.parametrize("how", ["down", "frozen"])
async def test_what_is_left_at_the_end_is_stored_by_the_next_process(
    setup: Setup, shippers: Shippers, tmp_path: Path, how: str
) -> None:
    job = await setup.jobs.start()
    shipper = shippers.start(spool=spool(tmp_path))
    log = shipper.open(job)
    if how == "down":
        setup.s3.go_down()
    else:
        setup.s3.freeze()
    write(log, "one", "two")
    await log.close()
    other = await setup.jobs.start()
    write(shipper.open(other), "of a job that goes on")
    with capture_logs() as said:
        await shipper.drain(0.5)
    assert "log_lines_lost" not in [line["event"] for line in said]
    assert files(tmp_path)
    setup.s3.come_back()
    setup.s3.thaw()

    shippers.start(spool=spool(tmp_path))
    assert await setup.wait_for(job, "two") == ["one", "two"]
    await setup.wait_for(other, "of a job that goes on")
    await is_clear(tmp_path)


async def test_a_process_that_ends_as_storing_works_again_leaves_nothing_behind(
    setup: Setup, shippers: Shippers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def unlink_slowly(self: Path, *, missing_ok: bool = False) -> None:
        # What was stored is there for others to see before its file is gone.
        time.sleep(0.2)
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_slowly)
    job = await setup.jobs.start()
    setup.s3.go_down()
    shipper = shippers.start(flush_seconds=0.05, spool=spool(tmp_path))
    log = shipper.open(job)
    messages = await write_in_turns(log, tmp_path, 3)
    setup.s3.come_back()
    write(log, "the last one")

    async def storing_works() -> bool:
        return bool(await setup.messages(job))

    await eventually(storing_works)
    await shipper.drain(30)
    assert await setup.messages(job) == [*messages, "the last one"]
    await is_clear(tmp_path)


async def test_the_spool_of_a_process_that_lives_is_left_alone_until_it_ends(
    setup: Setup, shippers: Shippers, s3: TestBucket, clean_database: str, tmp_path: Path
) -> None:
    job = await setup.jobs.start()
    setup.s3.go_down()
    living = shippers.start(flush_seconds=0.1, spool=spool(tmp_path))
    log = living.open(job)
    messages = await write_in_turns(log, tmp_path, 2)
    async with (
        open_store(s3) as store,
        open_pool(clean_database, DatabaseRole.CONSUMER) as database,
    ):
        neighbour = LogShipper(
            store,
            database,
            uuid7(),
            flush_seconds=0.1,
            attempt_max_bytes=MEBIBYTE,
            buffer_max_bytes=MEBIBYTE,
            spool=spool(tmp_path),
        )
        neighbour.start()
        # It looks for what the dead have left, several times, and stores logs of its own.
        other = await setup.jobs.start()
        for number in range(5):
            its_own = neighbour.open(other)
            write(its_own, f"neighbour {number}")
            await its_own.close()
            await setup.wait_for(other, f"neighbour {number}")
        assert len(files(tmp_path)) == 2
        assert await setup.messages(job) == []
        await living.drain(0.1)
        assert await setup.wait_for(job, messages[-1]) == messages
        await is_clear(tmp_path)
        await neighbour.drain(5)


async def test_past_the_limit_lines_stay_in_memory_and_the_gap_is_said(
    setup: Setup, shippers: Shippers, tmp_path: Path
) -> None:
    job = await setup.jobs.start()
    setup.s3.go_down()
    limit = 64 * 1024
    shipper = shippers.start(
        flush_seconds=0.05, spool=spool(tmp_path, limit), buffer_max_bytes=32 * 1024
    )
    log = shipper.open(job)
    with capture_logs() as said:
        for number in range(300):
            write(log, f"line {number} " + "x" * 1000)
            if number % 10 == 0:
                await asyncio.sleep(0.01)
        await eventually_said(said, "log_spool_refuses")
    assert sum(path.stat().st_size for path in files(tmp_path)) <= limit + 8 * 1024
    setup.s3.come_back()
    write(log, "the end")
    await log.close()
    messages = await setup.wait_for(job, "the end")
    gaps = [message for message in messages if "lost: object storage was unreachable" in message]
    assert gaps
    numbers = [int(message.split()[1]) for message in messages if message.startswith("line")]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert 64 <= len(numbers) < 300
    await is_clear(tmp_path)


async def eventually_said(said: Any, event: str) -> None:
    async def look() -> bool:
        return event in [line["event"] for line in said]

    await eventually(look)


async def test_a_spool_that_can_not_be_written_harms_nothing(
    setup: Setup, shippers: Shippers, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    job = await setup.jobs.start()
    setup.s3.go_down()
    shipper = shippers.start(flush_seconds=0.05, spool=spool(tmp_path / "file" / "spool"))
    log = shipper.open(job)
    with capture_logs() as said:
        write(log, "one")
        await eventually_said(said, "log_spool_refuses")
    write(log, "two")
    setup.s3.come_back()
    await log.close()
    assert await setup.wait_for(job, "two") == ["one", "two"]


async def test_what_a_death_or_a_disk_has_spoiled_is_said_and_the_rest_is_stored(
    setup: Setup, shippers: Shippers, tmp_path: Path
) -> None:
    job = await setup.jobs.start()
    setup.s3.go_down()
    shipper = shippers.start(flush_seconds=0.05, spool=spool(tmp_path))
    log = shipper.open(job)
    await write_in_turns(log, tmp_path, 4)
    await shipper.drain(0.1)
    first, second, third, _ = files(tmp_path)
    first.write_bytes(first.read_bytes()[:-3])
    second.write_bytes(b"\0" * 100)
    third.write_bytes(third.read_bytes().replace(b"line 2", b"lime 2"))
    (first.parent / "half.part").write_bytes(b"half")
    for path in (first, second, third):
        with pytest.raises(SpoolDamaged):
            read(path)
    setup.s3.come_back()
    with capture_logs() as said:
        shippers.start(spool=spool(tmp_path))
        assert await setup.wait_for(job, "line 3") == ["line 3"]
        await is_clear(tmp_path)
    lost = [line for line in said if line["event"] == "log_lines_lost"]
    assert [Path(line["file"]).name for line in lost] == [
        path.name for path in (first, second, third)
    ]
    assert not list(tmp_path.rglob("*.part"))


def test_an_object_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    lines = Lines()
    lines.add(b'{"message":"\xc3\xa4\\n"}\n')
    stretches = [Stretch(uuid7(), uuid7(), 3, lines)]
    (item,) = Composer(uuid7()).compose(stretches)
    folder = spool(tmp_path).make_folder()
    path = folder.write(item)
    assert folder.write(item) == path
    assert read(path) == LogObject(item.sequence, item.key, item.data, item.chunks)
    assert folder.files() == [path]
    assert json.loads(path.read_bytes().split(b"\n")[0])["bytes"] == len(item.data)
    folder.leave()
    assert path.exists()


def test_a_folder_is_adopted_when_its_process_is_gone_and_by_one_alone(tmp_path: Path) -> None:
    first, second, third = (spool(tmp_path) for _ in range(3))
    folder = first.make_folder()
    (folder.path / "00000001.lines").write_bytes(b"x")
    assert second.adopt() is None
    folder.leave()
    adopted = second.adopt()
    assert adopted is not None
    assert adopted.path == folder.path
    assert third.adopt() is None
    (folder.path / "00000001.lines").unlink()
    adopted.leave()
    assert third.adopt() is None
    assert list(tmp_path.iterdir()) == []
