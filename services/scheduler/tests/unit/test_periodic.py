import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import pytest
from aiormq.exceptions import ChannelInvalidStateError
from structlog.testing import capture_logs

from taskflow.errors import ServiceUnavailable
from taskflow_scheduler.periodic import PeriodicLoop, Round
from taskflow_testing.waiting import eventually

TICK = 0.01


def loop_of(round_: Round, leads: Callable[[], bool] = lambda: True) -> PeriodicLoop:
    return PeriodicLoop("test", round_, every_seconds=TICK, leads=leads)


def rounds(count: int, of: list[float]) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return len(of) >= count

    return reached


async def test_rounds_follow_each_other_until_it_is_stopped() -> None:
    began: list[float] = []

    async def round_() -> bool:
        began.append(time.monotonic())
        return False

    loop = loop_of(round_)
    loop.start()
    loop.start()
    await eventually(rounds(5, began))
    await loop.stop(1)
    await loop.stop(1)
    count = len(began)
    await asyncio.sleep(5 * TICK)
    assert len(began) == count
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert min(gaps) >= TICK * 0.7


async def test_what_has_more_goes_on_at_once() -> None:
    began: list[float] = []

    async def round_() -> bool:
        began.append(time.monotonic())
        return len(began) < 50

    loop = PeriodicLoop("test", round_, every_seconds=60, leads=lambda: True)
    loop.start()
    await eventually(rounds(50, began))
    await loop.stop(1)


async def test_who_does_not_lead_watches() -> None:
    leads = False
    did: list[str] = []

    async def round_() -> bool:
        did.append("acted")
        return False

    async def watch() -> None:
        did.append("watched")
        if len(did) == 1:
            raise ServiceUnavailable("PostgreSQL", "gone")

    loop = PeriodicLoop("test", round_, every_seconds=TICK, leads=lambda: leads, watch=watch)
    loop.start()

    async def watched_twice() -> bool:
        return len(did) >= 2

    await eventually(watched_twice)
    leads = True

    async def acted() -> bool:
        return did[-1] == "acted"

    await eventually(acted)
    await loop.stop(1)
    assert loop.bugs == 0


async def test_only_a_leader_acts() -> None:
    began: list[float] = []
    asked: list[float] = []

    def leads() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 10

    async def round_() -> bool:
        began.append(len(asked))
        return False

    loop = loop_of(round_, leads)
    loop.start()
    await eventually(rounds(1, began))
    await loop.stop(1)
    assert began[0] == 11


@pytest.mark.parametrize(
    ("error", "bugs", "event"),
    [
        (ServiceUnavailable("PostgreSQL", "away"), 0, "round_failed"),
        (ConnectionResetError("gone"), 0, "round_failed"),
        (ChannelInvalidStateError("closed"), 0, "round_failed"),
        (asyncio.CancelledError(), 0, "round_failed"),
        (KeyError("oops"), 2, "round_broke"),
        (RuntimeError("a defect of ours"), 2, "round_broke"),
    ],
)
async def test_an_error_is_said_and_outlived(error: BaseException, bugs: int, event: str) -> None:
    began: list[float] = []

    async def round_() -> bool:
        began.append(time.monotonic())
        if len(began) <= 2:
            raise error
        return False

    loop = loop_of(round_)
    with capture_logs() as logs:
        loop.start()
        await eventually(rounds(4, began))
        await loop.stop(1)
    assert loop.bugs == bugs
    assert logs[0]["event"] == event
    assert bool(logs[0].get("exc_info")) == bool(bugs)


async def test_a_stop_lets_the_round_end_but_not_for_ever() -> None:
    ended: list[float] = []
    entered = asyncio.Event()

    async def short() -> bool:
        entered.set()
        await asyncio.sleep(0.05)
        ended.append(1)
        return False

    loop = loop_of(short)
    loop.start()
    await entered.wait()
    await loop.stop(5)
    assert ended == [1]

    async def endless() -> bool:
        entered.set()
        await asyncio.sleep(60)
        return False

    entered.clear()
    loop = loop_of(endless)
    loop.start()
    await entered.wait()
    began_at = time.monotonic()
    await loop.stop(0.1)
    assert time.monotonic() - began_at < 5
