"""C14: S3 is away for a minute, answers five seconds late, cuts its answers short; then it is away
while more is logged than the disk may take.

Lines are the worker's until they are stored or on disk, so a worker that is killed may take its
last ones with it: for a flush (2 s), or for as long as an upload takes where S3 answers at all.
Only these are excused. Logs are limited to a few MiB, so that the limit can be passed.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from taskflow_chaos import job_logs
from taskflow_chaos.cluster import Layout
from taskflow_chaos.handlers import CHATTY_LINES
from taskflow_chaos.job_logs import JSON_LINES, LogAudit, log_path
from taskflow_chaos.reading import Readings, reading
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import PlannedJob
from taskflow_testing.own_servers import Outage

AWAY_SECONDS = 60.0
SLOW_SECONDS = 5.0
MOMENT_SECONDS = 10.0
PER_SECOND = 20.0
READS_PER_SECOND = 2.0
SHORTEST_ANSWER_BYTES, LONGEST_ANSWER_BYTES = 20, 2_000
CUT_EVERY_SECONDS = 1.0
MIB = 1024 * 1024
SPOOL_MAX_BYTES = 8 * MIB
BUFFER_MAX_BYTES = 1 * MIB
CHATTY_JOBS = 40
LOGS_THERE_SECONDS = 60.0
KILLED_TAKES_SECONDS = 4.0
KILLED_WHILE_SLOW_TAKES_SECONDS = 20.0
_POLL_SECONDS = 0.1


async def play(stage: Stage) -> None:
    """Quiet, away, slow, cut short, each under load and each followed by a look at all logs."""
    quiet, away, slow, cut = stage.parts(4)
    hindered: list[Outage] = []
    async with _spool_watched(stage), _logs_read(stage) as readings:
        async with stage.submissions(PER_SECOND, quiet):
            pass
        await _be_away(stage, away)
        await _require_logs(stage, hindered)
        hindered.append(Outage(time.time()))
        await _be_slow(stage, slow)
        await _cut_short(stage, cut)
        hindered[-1].ended = time.time()
        await stage.all_ended()
        await _require_logs(stage, hindered)
    await _require_true_answers(stage, readings)
    async with _spool_watched(stage):
        await _be_away_for_too_much(stage)
    stage.require_no_refusal()


async def _be_away(stage: Stage, plan: Sequence[PlannedJob]) -> None:
    """Jobs go on; a worker is killed and one is told to end, each with a spool full of lines."""
    s3 = stage.cluster.proxies["s3"]
    killed, ended = stage.random.sample(stage.cluster.consumers, 2)
    began = time.time()
    s3.go_down()
    stage.fault("S3 away for 60 s")
    async with stage.submissions(PER_SECOND, plan):
        await asyncio.sleep(AWAY_SECONDS / 3)
        if killed.kill():
            stage.fault("consumer kill -9 while S3 is away")
        code = await ended.restart()
        stage.require(code == 0, f"{ended.name} ended with {code} after its SIGTERM")
        stage.fault("consumer SIGTERM while S3 is away")
        await asyncio.sleep(began + AWAY_SECONDS - time.time())
        await _require_jobs_went_on(stage, began)
        s3.come_back()


async def _require_jobs_went_on(stage: Stage, began: float) -> None:
    claims = await stage.first_claims()
    due = [each for each in stage.client.accepted if began < each.at < time.time() - 30.0]
    # One that was cancelled in time was never taken.
    excused = claims.keys() | {each.job_id for each in stage.client.cancels}
    waiting = [each for each in due if each.job_id not in excused]
    stage.require(
        not waiting,
        f"{len(waiting)} of {len(due)} jobs waited for more than 30 s while S3 was away",
    )


async def _be_slow(stage: Stage, plan: Sequence[PlannedJob]) -> None:
    s3 = stage.cluster.proxies["s3"]
    s3.answer_delay_seconds = SLOW_SECONDS
    stage.fault("S3 slow by 5 s")
    async with stage.submissions(PER_SECOND, plan):
        await asyncio.sleep(MOMENT_SECONDS)
    s3.answer_delay_seconds = 0.0


async def _cut_short(stage: Stage, plan: Sequence[PlannedJob]) -> None:
    """Each second at another place: in the head of an answer, in its body, or not at all."""
    s3 = stage.cluster.proxies["s3"]
    async with stage.submissions(PER_SECOND, plan) as submitting:
        seconds = 0
        while seconds < MOMENT_SECONDS or not submitting.done():
            s3.answer_limit_bytes = stage.random.randint(
                SHORTEST_ANSWER_BYTES, LONGEST_ANSWER_BYTES
            )
            stage.fault("S3 cuts answers short for 1 s")
            await asyncio.sleep(CUT_EVERY_SECONDS)
            seconds += 1
    s3.answer_limit_bytes = None


async def _require_logs(stage: Stage, hindered: Sequence[Outage]) -> None:
    """From now on S3 is well: all that was written comes to be read."""
    back = time.time()

    def taken_by_a_kill(moment: float) -> float:
        slow = any(each.covers(moment) for each in hindered)
        return KILLED_WHILE_SLOW_TAKES_SECONDS if slow else KILLED_TAKES_SECONDS

    expected, excused = await job_logs.expected(stage.cluster, taken_by_a_kill)
    audit = LogAudit(stage.client, "works")
    missing, at = await audit.wait_complete(expected, LOGS_THERE_SECONDS)
    stage.require(
        not missing,
        f"{LOGS_THERE_SECONDS:.0f} s after S3 was back the lines of {len(missing)} of"
        f" {len(expected)} attempts were not there: {missing[:3]}",
    )
    stage.figures["attempts_with_logs"] = len(expected)
    stage.figures["attempts_excused_by_a_kill"] = len(excused)
    stage.figures["attempts_whose_lines_a_kill_took"] = len(await audit.missing(excused))
    stage.recovered(
        [at - back], "from S3's return until all logs can be read", limit=LOGS_THERE_SECONDS
    )


async def _require_true_answers(stage: Stage, readings: Readings) -> None:
    """Each line that was answered during the faults is in the log; none stood for one that is."""
    answered = [each for each in readings.answers if each.status == "200"]
    stage.figures["log_reads"] = str(dict(readings.statuses))
    stage.client.complaints.extend(readings.complaints)
    wrong = []
    for each in answered:
        whole = (await stage.client.get(each.path, accept=JSON_LINES)).content
        if not set(each.body.splitlines()) <= set(whole.splitlines()):
            wrong.append(each.path)
    stage.require(bool(answered), "no log could be read during the faults")
    stage.require(
        not wrong, f"{len(wrong)} answers to {wrong[:3]} had lines that are not in the log"
    )


async def _be_away_for_too_much(stage: Stage) -> None:
    """Log several times what the spools may hold: what is missing is said, to the line."""
    s3 = stage.cluster.proxies["s3"]
    jobs = [
        PlannedJob(f"chatty-{number}", "chaos.chatty", 5.0, "completes", None, is_sent_twice=False)
        for number in range(CHATTY_JOBS)
    ]
    before = len(stage.client.accepted)
    s3.go_down()
    stage.fault("S3 away, more logged than the spool may take")
    async with stage.submissions(PER_SECOND, jobs):
        pass
    await stage.all_ended()
    s3.come_back()
    accepted = {each.job_id for each in stage.client.accepted[before:]}
    began, unexplained = time.monotonic(), -1
    while unexplained and time.monotonic() - began < LOGS_THERE_SECONDS:
        logs = await LogAudit(stage.client, "chats").read(accepted)
        lost = sum(each.said_lost for each in logs.values())
        kept = sum(each.lines for each in logs.values())
        unexplained = CHATTY_JOBS * CHATTY_LINES - kept - lost
    stage.figures |= {"chatty_lines_kept": kept, "chatty_lines_said_lost": lost}
    stage.require(not unexplained, f"{unexplained} lines are neither there nor said to be lost")
    stage.require(lost > 0, "the spool's limit was not passed")


@contextlib.asynccontextmanager
async def _logs_read(stage: Stage) -> AsyncIterator[Readings]:
    """Read the logs of jobs during the block."""

    def next_path() -> str:
        accepted = stage.client.accepted
        if not accepted:
            return "/readyz"
        return log_path(stage.random.choice(accepted).job_id)

    async with reading(stage.cluster, next_path, READS_PER_SECOND, JSON_LINES) as readings:
        yield readings


@contextlib.asynccontextmanager
async def _spool_watched(stage: Stage) -> AsyncIterator[None]:
    """Measure the spool during the block, and require that it stays within its limit."""
    folder = stage.cluster.consumers[0].log_path.parent / SPOOL_FOLDER
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, await asyncio.to_thread(_size, folder))
            await asyncio.sleep(_POLL_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    stage.figures["most_bytes_in_spool"] = most
    stage.require(most > 0, "nothing was spooled")
    # Consumers look before they write; each writes a quarter of its buffer at most.
    limit = SPOOL_MAX_BYTES + BUFFER_MAX_BYTES * len(stage.cluster.consumers) // 2
    stage.require(most <= limit, f"{most} bytes were spooled, {SPOOL_MAX_BYTES} are allowed")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


SPOOL_FOLDER = "spool"
"""Beside the services' logs, where they are started: the four are on one host."""

SCENARIO = Scenario(
    id="C14",
    title="S3 away, slow, cutting answers short",
    fault="S3 is away for 60 s, slow by 5 s, cuts answers short; is away while 40 MiB are logged",
    asserts="submissions and jobs go on; all logs are there within 60 s of S3's return, in a spool"
    " that keeps its limit; past it what is missing is said to the line",
    jobs=2_000,
    layout=Layout(
        settings={
            "consumer": {
                "log_spool_dir": SPOOL_FOLDER,
                "log_spool_max_bytes": SPOOL_MAX_BYTES,
                "log_buffer_max_bytes": BUFFER_MAX_BYTES,
            }
        },
        proxies={"s3": ("api", "consumer", "scheduler")},
    ),
    play=play,
)
