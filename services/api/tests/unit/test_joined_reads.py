"""Reads that are shared, and never older than one's own."""

import asyncio
from collections.abc import Collection

import pytest

from taskflow_api import joined_reads
from taskflow_api.joined_reads import GatheredReads, JoinedReads
from taskflow_testing.waiting import eventually


class Source:
    """What is read: its value, and when a read of it may end."""

    def __init__(self) -> None:
        self.value = 0
        self.reads: list[str] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def read(self, key: str) -> int:
        self.reads.append(key)
        seen = self.value
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return seen


async def begun(source: Source, count: int) -> None:
    async def look() -> bool:
        return len(source.reads) >= count

    await eventually(look)


@pytest.fixture
async def source() -> Source:
    return Source()


async def test_who_comes_together_has_one_read(source: Source) -> None:
    source.open.set()
    joined = JoinedReads(source.read)
    assert await asyncio.gather(*(joined.get("a") for _ in range(500))) == [0] * 500
    assert source.reads == ["a"]
    assert await joined.get("a") == 0
    assert source.reads == ["a", "a"]


async def test_who_comes_while_one_is_under_way_has_the_next(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_reads, "PATIENCE_SECONDS", 60.0)
    joined = JoinedReads(source.read)
    first = asyncio.create_task(joined.get("a"))
    await begun(source, 1)
    source.value = 1
    later = [asyncio.create_task(joined.get("a")) for _ in range(100)]
    await asyncio.sleep(0)
    source.value = 2
    latest = [asyncio.create_task(joined.get("a")) for _ in range(100)]
    other = asyncio.create_task(joined.get("b"))
    await begun(source, 2)
    source.open.set()
    assert await first == 0
    assert set(await asyncio.gather(*later, *latest)) == {2}
    assert await other == 2
    assert source.reads == ["a", "b", "a"]


async def test_nobody_waits_long_for_a_read_that_hangs(source: Source) -> None:
    joined = JoinedReads(source.read)
    hanging = asyncio.create_task(joined.get("a"))
    await begun(source, 1)
    next_one = asyncio.create_task(joined.get("a"))
    await begun(source, 2)
    assert not hanging.done()
    source.open.set()
    assert [await hanging, await next_one] == [0, 0]


async def test_an_error_is_told_to_all_who_wait_and_to_nobody_else(source: Source) -> None:
    joined = JoinedReads(source.read)
    source.error = ZeroDivisionError()
    source.open.set()
    told = await asyncio.gather(*(joined.get("a") for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [ZeroDivisionError] * 3
    source.error = None
    assert await joined.get("a") == 0


async def test_the_end_of_one_caller_is_not_that_of_the_others(source: Source) -> None:
    joined = JoinedReads(source.read)
    one, other = (asyncio.create_task(joined.get("a")) for _ in range(2))
    await begun(source, 1)
    one.cancel()
    source.open.set()
    assert await other == 0
    assert one.cancelled()


async def test_nothing_is_left_of_a_read(source: Source) -> None:
    joined = JoinedReads(source.read)
    source.open.set()
    await asyncio.gather(*(joined.get(key) for key in "abc"))
    await asyncio.sleep(0)
    assert not joined._reads._coming
    assert not joined._reads._under_way


class Table:
    """What many keys are read from: which were read together, and when a read may end."""

    def __init__(self) -> None:
        self.values = {"a": 1, "b": 2, "c": 3}
        self.reads: list[tuple[str, list[str]]] = []
        self.open = asyncio.Event()

    async def read(self, group: str, keys: Collection[str]) -> dict[str, int]:
        self.reads.append((group, sorted(keys)))
        seen = dict(self.values)
        await self.open.wait()
        return {key: seen[key] for key in keys if key in seen}

    async def have_begun(self, count: int) -> None:
        async def look() -> bool:
            return len(self.reads) >= count

        await eventually(look)


@pytest.fixture
async def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(joined_reads, "PATIENCE_SECONDS", 60.0)
    return Table()


async def test_keys_that_are_asked_for_together_are_read_together(table: Table) -> None:
    table.open.set()
    gathered = GatheredReads(table.read, at_once=25)
    found = await asyncio.gather(*(gathered.get("one", key) for key in "abacx"))
    assert found == [1, 2, 1, 3, None]
    assert table.reads == [("one", ["a", "b", "c", "x"])]


async def test_groups_are_read_apart(table: Table) -> None:
    table.open.set()
    gathered = GatheredReads(table.read, at_once=25)
    await asyncio.gather(gathered.get("one", "a"), gathered.get("two", "b"))
    assert sorted(table.reads) == [("one", ["a"]), ("two", ["b"])]


async def test_keys_that_come_while_others_are_read_have_the_next_read(table: Table) -> None:
    gathered = GatheredReads(table.read, at_once=25)
    first = asyncio.create_task(gathered.get("one", "a"))
    await table.have_begun(1)
    table.values |= {"a": 10, "b": 20}
    later = [asyncio.create_task(gathered.get("one", key)) for key in "ab"]
    await asyncio.sleep(0)
    table.open.set()
    assert [await first, *[await each for each in later]] == [1, 10, 20]
    assert table.reads == [("one", ["a"]), ("one", ["a", "b"])]


async def test_no_read_has_too_many_keys(table: Table) -> None:
    table.values = {str(n): n for n in range(100)}
    table.open.set()
    gathered = GatheredReads(table.read, at_once=7)
    found = await asyncio.gather(*(gathered.get("one", str(n)) for n in range(100)))
    assert found == list(range(100))
    assert [len(keys) for _, keys in table.reads] == [7] * 14 + [2]
    await asyncio.sleep(0)
    assert not gathered._coming
    assert not gathered._under_way


async def test_keys_that_wait_behind_a_read_that_hangs_do_not_wait_long(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_reads, "PATIENCE_SECONDS", 0.01)
    gathered = GatheredReads(table.read, at_once=1)
    asking = [asyncio.create_task(gathered.get("one", key)) for key in "abc"]
    await table.have_begun(3)
    table.open.set()
    assert await asyncio.gather(*asking) == [1, 2, 3]
