"""A consumer that ends by itself, for a fresh one to take its place."""

from pathlib import Path

from taskflow_consumer.shutdown import RENEWAL_EXIT_CODE
from taskflow_testing.job_client import JobClient
from taskflow_testing.services import Services
from taskflow_testing.waiting import eventually


async def test_after_so_many_jobs_it_takes_no_more_and_lets_end_what_runs(
    services: Services, tmp_path: Path
) -> None:
    marks = {"path": str(tmp_path / "marks")}
    consumer = await services.start_consumer(
        handlers="fault_jobs", max_jobs_per_process=5, shutdown_grace_seconds=0.5
    )
    async with services.client() as http:
        jobs = JobClient(http)
        # Longer than the grace: handed back, it could meet renewal after renewal.
        long = await jobs.submit("fault.waits", {**marks, "seconds": 3.0})
        await jobs.reaches(long, "running")
        short = [await jobs.submit("fault.waits", marks) for _ in range(6)]

        assert await consumer.wait(timeout=20) == RENEWAL_EXIT_CODE
        (said,) = consumer.events("consumer_renews_itself")
        assert said["jobs"] >= 5
        assert [event["event"] for event in await jobs.events(long)] == [
            "submit", "claim", "succeed",
        ]  # fmt: skip

        await services.start_consumer(handlers="fault_jobs")
        for job in [long, *short]:
            assert (await jobs.completes(job))["attempt"] == 1


async def test_a_signal_during_a_renewal_begins_the_grace(
    services: Services, tmp_path: Path
) -> None:
    marks = {"path": str(tmp_path / "marks")}
    consumer = await services.start_consumer(
        handlers="fault_jobs", max_jobs_per_process=2, shutdown_grace_seconds=0.5
    )
    async with services.client() as http:
        jobs = JobClient(http)
        handed_over = await jobs.submit("fault.waits", {**marks, "seconds": 20.0})
        await jobs.reaches(handed_over, "running")
        await jobs.completes(await jobs.submit("fault.waits", marks))

        async def renews() -> bool:
            return bool(consumer.events("consumer_renews_itself"))

        await eventually(renews)
        assert await consumer.terminate() == 0
        assert [event["event"] for event in await jobs.events(handed_over)] == [
            "submit", "claim", "release",
        ]  # fmt: skip


async def test_when_it_has_grown_too_large_it_ends(services: Services, tmp_path: Path) -> None:
    await services.start_api()
    marks = {"path": str(tmp_path / "marks")}
    consumer = await services.start_consumer(handlers="fault_jobs", max_memory_mib=300)
    async with services.client() as http:
        jobs = JobClient(http)
        await jobs.completes(await jobs.submit("fault.grows", {**marks, "mebibytes": 300}))
    assert await consumer.wait(timeout=30) == RENEWAL_EXIT_CODE
    (said,) = consumer.events("consumer_renews_itself")
    assert said["memory_mib"] > 300


async def test_a_limit_that_leaves_no_room_is_refused_in_one_line(services: Services) -> None:
    consumer = services.launch("consumer", max_memory_mib=1)
    assert await consumer.wait(timeout=30) not in {0, RENEWAL_EXIT_CODE}
    assert "TASKFLOW_MAX_MEMORY_MIB=1 leaves no room for jobs" in consumer.log_tail()
