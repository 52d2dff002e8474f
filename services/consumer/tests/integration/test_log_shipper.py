"""The way of log lines into the object store, on real servers that go away and come back."""

import asyncio
import json
import re
import time
from dataclasses import replace
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from taskflow.db.roles import DatabaseRole
from taskflow.jobs.commands import delete
from taskflow.jobs.erasures import take_due_erasures
from taskflow.jobs.finishing import finish
from taskflow.jobs.outcomes import completed
from taskflow_consumer.log_shipper import LogShipper
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import TENANT
from taskflow_testing.waiting import eventually

from .log_shipping import Setup, Shippers, write

OTHER_TENANT = UUID("00000000-0000-7000-8000-000000000002")


async def test_the_log_of_a_finished_job_is_there_within_well_under_a_second(
    setup: Setup, shippers: Shippers
) -> None:
    job = await setup.jobs.start()
    log = shippers.start().open(job)
    begin = time.monotonic()
    log.write("warning", "resizing", "app.images", {"width": 320})
    write(log, "done")
    await log.close()
    await setup.wait_for(job, "done")
    assert time.monotonic() - begin < 1
    first, second = await setup.lines(job)
    assert (
        first.items()
        >= {
            "level": "warning",
            "message": "resizing",
            "logger": "app.images",
            "width": 320,
        }.items()
    )
    assert second["message"] == "done"
    (chunk,) = await setup.chunks(job)
    assert re.fullmatch(
        rf"logs/{TENANT}/\d{{4}}-\d\d-\d\d/[0-9a-f-]{{36}}-\d{{8}}\.jsonl",
        chunk.stored.object_key,
    )


async def test_the_lines_of_a_running_job_are_there_after_the_flush_interval(
    setup: Setup, shippers: Shippers
) -> None:
    job = await setup.jobs.start()
    log = shippers.start(flush_seconds=0.2).open(job)
    write(log, "one")
    await setup.wait_for(job, "one")
    write(log, "two", "three")
    assert await setup.wait_for(job, "three") == ["one", "two", "three"]


async def test_a_log_without_lines_leaves_nothing(setup: Setup, shippers: Shippers) -> None:
    empty, full = await setup.jobs.start(), await setup.jobs.start()
    shipper = shippers.start()
    await shipper.open(empty).close()
    log = shipper.open(full)
    write(log, "x")
    await log.close()
    await setup.wait_for(full, "x")
    assert await setup.chunks(empty) == []


async def test_many_jobs_that_end_together_share_objects_by_tenant(
    setup: Setup, shippers: Shippers
) -> None:
    shipper = shippers.start()
    jobs = [
        await setup.jobs.start(tenant_id=OTHER_TENANT if number % 2 else TENANT)
        for number in range(40)
    ]
    for number, job in enumerate(jobs):
        log = shipper.open(job)
        write(log, f"{number} begins", f"{number} ends")
        await log.close()
    for number, job in enumerate(jobs):
        assert await setup.wait_for(job, f"{number} ends") == [f"{number} begins", f"{number} ends"]
    chunks = [chunk for job in jobs for chunk in await setup.chunks(job)]
    objects = {(chunk.tenant_id, chunk.stored.object_key) for chunk in chunks}
    assert len(objects) == 2
    assert all(str(tenant_id) in object_key for tenant_id, object_key in objects)


async def test_lines_of_many_threads_all_arrive_each_thread_in_its_order(
    setup: Setup, shippers: Shippers
) -> None:
    job = await setup.jobs.start()
    log = shippers.start(flush_seconds=0.05).open(job)

    def talk(thread: int) -> None:
        for number in range(500):
            log.write("info", f"{thread} {number}", "job", {})

    await asyncio.gather(*(asyncio.to_thread(talk, thread) for thread in range(4)))
    write(log, "end")
    await log.close()
    *found, _ = await setup.wait_for(job, "end")
    for thread in range(4):
        assert [message for message in found if message.startswith(f"{thread} ")] == [
            f"{thread} {number}" for number in range(500)
        ]
    assert len(found) == 2000


async def test_fifty_megabytes_arrive_and_leave_the_loop_free(
    setup: Setup, shippers: Shippers
) -> None:
    job = await setup.jobs.start()
    log = shippers.start(flush_seconds=2.0).open(job)
    longest_stall = 0.0

    async def watch_the_loop() -> None:
        nonlocal longest_stall
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest_stall = max(longest_stall, time.monotonic() - before)

    watch = asyncio.create_task(watch_the_loop())
    text = "x" * 1000
    await asyncio.to_thread(write, log, *(f"{number} {text}" for number in range(50_000)))
    write(log, "end")
    await log.close()
    messages = await setup.wait_for(job, "end")
    watch.cancel()
    assert len(messages) == 50_001
    assert messages[:-1] == [f"{number} {text}" for number in range(50_000)]
    assert max(chunk.stored.byte_length for chunk in await setup.chunks(job)) <= 1024 * 1024
    assert longest_stall < 3


async def test_a_log_past_its_limit_is_cut_and_says_so(setup: Setup, shippers: Shippers) -> None:
    job, other = await setup.jobs.start(), await setup.jobs.start()
    shipper = shippers.start(attempt_max_bytes=1000)
    log = shipper.open(job)
    write(log, *(f"line {number}" for number in range(100)))
    await log.close()
    *kept, cut, rest = await setup.wait_for(job, ".* after the cut were not kept")
    assert kept == [f"line {number}" for number in range(len(kept))]
    assert 5 < len(kept) < 12
    assert "the log is cut here" in cut
    assert "1000 bytes" in cut
    assert rest.startswith(f"… {100 - len(kept)} lines (")
    log = shipper.open(other)
    write(log, "unharmed")
    await log.close()
    await setup.wait_for(other, "unharmed")


async def test_a_closed_log_takes_nothing_more(setup: Setup, shippers: Shippers) -> None:
    job, other = await setup.jobs.start(), await setup.jobs.start()
    shipper = shippers.start()
    log = shipper.open(job)
    write(log, "in time")
    await log.close()
    write(log, "too late")
    await log.close()
    await setup.wait_for(job, "in time")
    write(log, "much too late")
    log = shipper.open(other)
    write(log, "other")
    await log.close()
    await setup.wait_for(other, "other")
    assert await setup.messages(job) == ["in time"]


@pytest.mark.parametrize("fault", ["down", "frozen"])
async def test_without_object_storage_nobody_waits_and_all_lines_arrive_later_in_order(
    setup: Setup, shippers: Shippers, fault: str
) -> None:
    jobs = [await setup.jobs.start() for _ in range(3)]
    shipper = shippers.start(flush_seconds=0.05)
    logs = [shipper.open(job) for job in jobs]
    if fault == "down":
        setup.s3.go_down()
    else:
        setup.s3.freeze()
    # The store stays away until further down: whoever waited for it would wait for ever.
    async with asyncio.timeout(10):
        for number in range(300):
            for log in logs:
                write(log, f"{number}")
        await asyncio.gather(*(log.close() for log in logs))
    failures = setup.s3.accepted

    async def failed_again() -> bool:
        return setup.s3.accepted > failures + 2

    await eventually(failed_again)
    assert await setup.chunks(jobs[0]) == []
    setup.s3.come_back()
    setup.s3.thaw()
    for job in jobs:
        assert await setup.wait_for(job, "299") == [str(number) for number in range(300)]


async def test_while_object_storage_is_slow_lines_that_come_meanwhile_stay_behind(
    setup: Setup, shippers: Shippers
) -> None:
    job = await setup.jobs.start()
    setup.s3.answer_delay_seconds = 0.3
    log = shippers.start(flush_seconds=0.01).open(job)
    for number in range(60):
        write(log, str(number))
        await asyncio.sleep(0.01)
    await log.close()
    assert await setup.wait_for(job, "59") == [str(number) for number in range(60)]
    assert len(await setup.chunks(job)) > 1


async def test_past_the_buffer_the_biggest_logs_lose_their_oldest_lines_and_say_so(
    setup: Setup, shippers: Shippers
) -> None:
    big, small = await setup.jobs.start(), await setup.jobs.start()
    shipper = shippers.start(buffer_max_bytes=200_000)
    big_log, small_log = shipper.open(big), shipper.open(small)
    setup.s3.go_down()
    written = 3000
    write(small_log, "small begins")
    write(big_log, *(f"{number} {'x' * 100}" for number in range(written)))
    write(small_log, "small ends")
    await small_log.close()
    failures = setup.s3.accepted

    async def has_failed() -> bool:
        return setup.s3.accepted > failures

    await eventually(has_failed)
    write(big_log, "end")
    await big_log.close()
    setup.s3.come_back()
    messages = await setup.wait_for(big, "end")
    gaps = [message for message in messages if message.startswith("…")]
    lost = 0
    for gap in gaps:
        found = re.fullmatch(
            r"… (\d+) lines \((\d+) bytes\) lost: object storage was unreachable from (\S+Z) to"
            r" (\S+Z)",
            gap,
        ) or re.fullmatch(r"… (\d+) lines \((\d+) bytes\) lost: the log was written faster.*", gap)
        assert found, gap
        lost += int(found[1])
    numbers = [int(message.split()[0]) for message in messages if "xxx" in message]
    assert numbers == sorted(numbers)
    assert numbers[-1] == written - 1
    assert lost > 500
    assert len(numbers) + lost == written
    # The gap stands where the lines were: what comes after it are the lines that were kept.
    assert messages.index(gaps[-1]) < messages.index("end")
    assert await setup.messages(small) == ["small begins", "small ends"]


async def test_an_outage_is_named_with_its_times_where_it_cost_lines(
    setup: Setup, shippers: Shippers
) -> None:
    first, job = await setup.jobs.start(), await setup.jobs.start()
    shipper = shippers.start(buffer_max_bytes=100_000, flush_seconds=0.05)
    setup.s3.go_down()
    with capture_logs() as service_log:
        log = shipper.open(first)
        write(log, "in flight")
        await log.close()

        async def is_noticed() -> bool:
            return bool(service_log)

        await eventually(is_noticed)
    log = shipper.open(job)
    write(log, *(f"{number} {'x' * 100}" for number in range(2000)), "end")
    await log.close()
    setup.s3.come_back()
    gap, *kept = await setup.wait_for(job, "end")
    found = re.fullmatch(
        r"… (\d+) lines \(\d+ bytes\) lost: object storage was unreachable from (\S+) to (\S+)", gap
    )
    assert found, gap
    assert found[2] < found[3]
    assert int(found[1]) + len(kept) == 2001
    assert await setup.messages(first) == ["in flight"]


async def test_a_great_many_short_logs_are_bounded_too(setup: Setup, shippers: Shippers) -> None:
    job = await setup.jobs.start()
    shipper = shippers.start(buffer_max_bytes=100_000, flush_seconds=0.05)
    setup.s3.go_down()
    for _ in range(1000):
        log = shipper.open(job)
        write(log, "short")
        await log.close()
    assert len(shipper._backlog._waiting) <= 100
    with capture_logs() as service_log:
        setup.s3.come_back()

        async def said() -> bool:
            return any(line["event"] == "log_lines_lost" for line in service_log)

        await eventually(said)

        async def is_stored() -> bool:
            return shipper._backlog.is_empty

        await eventually(is_stored)
    lost = sum(line["lines"] for line in service_log if line["event"] == "log_lines_lost")
    lines = await setup.lines(job)
    said_lost = sum(
        int(line["message"].split()[1]) for line in lines if line["message"].startswith("…")
    )
    kept = sum(line["message"] == "short" for line in lines)
    assert lost > 0
    assert kept + said_lost + lost == 1000


async def test_rows_wait_for_postgresql(setup: Setup, shippers: Shippers) -> None:
    job = await setup.jobs.start()
    log = shippers.start().open(job)
    setup.database.go_down()
    write(log, "one")
    await log.close()

    async def refused() -> bool:
        return setup.database.accepted > 2

    await eventually(refused)
    setup.database.come_back()
    assert await setup.wait_for(job, "one") == ["one"]


async def test_a_commit_whose_answer_is_lost_doubles_nothing(
    setup: Setup, shippers: Shippers
) -> None:
    warm, job = await setup.jobs.start(), await setup.jobs.start()
    shipper = shippers.start()
    log = shipper.open(warm)
    write(log, "warm")
    await log.close()
    await setup.wait_for(warm, "warm")

    async def is_settled() -> bool:
        return shipper._backlog._taken.lines == 0

    # Its rows can be seen before its connection has heard of it.
    await eventually(is_settled)
    log = shipper.open(job)
    with capture_logs() as service_log:
        # The open connection still carries the statement there, and no answer back.
        setup.database.answer_limit_bytes = 0
        write(log, "once")
        await log.close()
        await setup.wait_for(job, "once")
        setup.database.answer_limit_bytes = None
        await eventually(is_settled)
    assert "log_storage_unreachable" in [line["event"] for line in service_log]
    assert "log_lines_lost" not in [line["event"] for line in service_log]
    assert await setup.messages(job) == ["once"]


async def test_rows_wait_for_a_database_that_takes_no_writes(
    setup: Setup, shippers: Shippers
) -> None:
    job = await setup.jobs.start()
    log = shippers.start().open(job)
    connection = setup.jobs.connection
    with capture_logs() as service_log:
        await connection.execute("ALTER TABLE log_chunks RENAME TO log_chunks_away")
        try:
            write(log, "one")
            await log.close()

            async def refused() -> bool:
                return bool(service_log)

            await eventually(refused)
        finally:
            await connection.execute("ALTER TABLE log_chunks_away RENAME TO log_chunks")
        assert await setup.wait_for(job, "one") == ["one"]
    assert service_log[0]["event"] == "log_storage_unreachable"


async def test_lines_that_can_never_be_stored_hold_up_no_others(
    setup: Setup, shippers: Shippers
) -> None:
    job = await setup.jobs.start()
    shipper = shippers.start()
    impossible = replace(job, attempt=replace(job.attempt, number=2**40))
    with capture_logs() as service_log:
        log = shipper.open(impossible)
        write(log, "no row can hold this")
        await log.close()

        async def said() -> bool:
            return bool(service_log)

        await eventually(said)
        log = shipper.open(job)
        write(log, "fine")
        await log.close()
        await setup.wait_for(job, "fine")
    (line,) = service_log
    assert (line["event"], line["lines"], line["reason"]) == ("log_lines_lost", 1, "defect")


async def test_drain_stores_what_there_is_also_of_open_logs(
    setup: Setup, shippers: Shippers
) -> None:
    closed, still_open = await setup.jobs.start(), await setup.jobs.start()
    shipper = shippers.start()
    logs = [shipper.open(closed), shipper.open(still_open)]
    write(logs[0], "closed")
    write(logs[1], "still open")
    await logs[0].close()
    with capture_logs() as service_log:
        await shipper.drain(5.0)
    assert service_log == []
    assert await setup.messages(closed) == ["closed"]
    assert await setup.messages(still_open) == ["still open"]
    write(logs[1], "after the end")
    await logs[1].close()
    await shipper.drain(5.0)
    assert await setup.messages(still_open) == ["still open"]


async def test_drain_gives_up_in_time_and_tells_what_is_lost(
    setup: Setup, shippers: Shippers
) -> None:
    job = await setup.jobs.start()
    shipper = shippers.start()
    log = shipper.open(job)
    setup.s3.freeze()
    write(log, "one", "two")
    await log.close()
    begin = time.monotonic()
    with capture_logs() as service_log:
        await shipper.drain(0.3)
        await shipper.drain(0.3)
    assert time.monotonic() - begin < 2
    lost = [line for line in service_log if line["event"] == "log_lines_lost"]
    assert [(line["lines"], line["reason"]) for line in lost] == [(2, "shutdown")]


async def test_a_shipper_that_was_never_started_drains_at_once(
    setup: Setup, shippers: Shippers
) -> None:
    async with open_pool(setup.database.url, DatabaseRole.CONSUMER) as database:
        shipper = LogShipper(
            setup.store,
            database,
            uuid7(),
            flush_seconds=2.0,
            attempt_max_bytes=1000,
            buffer_max_bytes=10_000,
        )
        await asyncio.wait_for(shipper.drain(5.0), 1)


async def test_lines_of_a_job_that_was_deleted_meanwhile_stay_unnamed_and_are_erased(
    setup: Setup, shippers: Shippers
) -> None:
    job, other = await setup.jobs.start(), await setup.jobs.start()
    shipper = shippers.start(flush_seconds=0.05)
    setup.s3.go_down()
    for each in (job, other):
        log = shipper.open(each)
        write(log, "late")
        await log.close()
    await finish(setup.jobs.connection, [(job.attempt, completed("null"))])
    await delete(setup.jobs.connection, TENANT, job.attempt.job_id)
    setup.s3.come_back()
    await setup.wait_for(other, "late")
    assert await setup.chunks(job) == []
    connection = setup.jobs.connection
    # The deletion itself knew of no lines.
    by_deletion, by_late_lines = await take_due_erasures(connection, limit=5)
    assert by_deletion.log_ranges == []
    assert (by_late_lines.tenant_id, by_late_lines.job_id) == (TENANT, job.attempt.job_id)
    (stored,) = by_late_lines.log_ranges
    data = await setup.store.get(stored.object_key, stored.byte_offset, stored.byte_length)
    assert [json.loads(line)["message"] for line in data.splitlines()] == ["late"]


async def test_an_outage_is_told_once_with_its_end(setup: Setup, shippers: Shippers) -> None:
    job = await setup.jobs.start()
    log = shippers.start().open(job)
    with capture_logs() as service_log:
        setup.s3.go_down()
        write(log, "x")
        await log.close()

        async def failed_often() -> bool:
            return setup.s3.accepted > 6

        await eventually(failed_often)
        setup.s3.come_back()
        await setup.wait_for(job, "x")

        async def said() -> bool:
            return bool(service_log[-1]["event"] == "log_storage_reachable_again")

        await eventually(said)
    assert [line["event"] for line in service_log] == [
        "log_storage_unreachable",
        "log_storage_reachable_again",
    ]
    assert service_log[0]["service"] == "object storage"
    assert service_log[1]["seconds"] > 0
