"""One deadline for all who write something at the end."""

import asyncio

from taskflow_consumer.last_words import LEAST_SECONDS, LastWords
from taskflow_consumer.shutdown import RENEWAL_EXIT_CODE, Shutdown


async def test_all_share_one_deadline_that_is_only_ever_brought_forward() -> None:
    last_words = LastWords()
    last_words.begin(60)
    assert 59 < last_words.left() <= 60
    last_words.begin(5)
    last_words.begin(30)
    assert 4 < last_words.left() <= 5
    last_words.begin(0)
    assert last_words.left() == LEAST_SECONDS


async def test_work_that_ends_in_time_is_done_and_its_error_is_raised() -> None:
    last_words = LastWords()
    assert await last_words.bound(asyncio.sleep(0))
    try:
        await last_words.bound(_break())
    except LookupError:
        return
    raise AssertionError("the error was swallowed")


async def test_work_that_a_library_cancels_is_not_done_and_ends_nobody_else() -> None:
    # As aiormq does with whoever waits for an answer on a connection that it gives up.
    given_up = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(given_up.cancel)

    async def close() -> None:
        await given_up

    assert not await LastWords().bound(close())


async def _break() -> None:
    raise LookupError


async def test_work_that_takes_too_long_is_left_behind_when_haste_is_asked_for() -> None:
    last_words = LastWords()
    last_words.begin(600)
    cancelled = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.sleep(0.05)  # as one that gives a connection back
            raise

    asyncio.get_running_loop().call_later(0.1, last_words.begin, 0)
    async with asyncio.timeout(10):
        assert not await last_words.bound(stubborn())
        await cancelled.wait()


async def test_a_process_that_renews_itself_takes_a_signal_as_the_first_one() -> None:
    shutdown = Shutdown()
    assert shutdown.exit_code == 0
    shutdown.renew()
    await shutdown.wait()
    assert shutdown.exit_code == RENEWAL_EXIT_CODE
    shutdown.ask()
    assert shutdown.exit_code == 0
    at_once = asyncio.create_task(shutdown.wait_at_once())
    await asyncio.sleep(0)
    assert not at_once.done()
    shutdown.ask()
    await at_once
