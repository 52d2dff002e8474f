"""C8: the broker runs out of memory, then of disk, and blocks whoever publishes."""

import asyncio
import time
from dataclasses import dataclass

from taskflow_chaos.rabbitmqctl import rabbitmqctl
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage, pace
from taskflow_testing.own_servers import Outage

BEFORE_ALARM_SECONDS = 3.0
ALARM_SECONDS = 60.0
AFTER_ALARM_SECONDS = 5.0
LOAD_SECONDS = BEFORE_ALARM_SECONDS + ALARM_SECONDS + AFTER_ALARM_SECONDS
BACKLOG_GONE_SECONDS = 60.0


@dataclass(frozen=True)
class Alarm:
    """What raises it, what puts its limit back to the default, and what the node calls it."""

    name: str
    raise_it: tuple[str, ...]
    end_it: tuple[str, ...]
    said: str


ALARMS = (
    Alarm(
        "memory",
        ("set_vm_memory_high_watermark", "absolute", "1MB"),
        ("set_vm_memory_high_watermark", "0.4"),
        "Memory alarm",
    ),
    Alarm(
        "disk",
        ("set_disk_free_limit", "1000000GB"),
        ("set_disk_free_limit", "50MB"),
        "Free disk space alarm",
    ),
)


async def play(stage: Stage) -> None:
    """One alarm after the other, jobs coming in all the while, however few they are."""
    for alarm, part in zip(ALARMS, stage.parts(len(ALARMS)), strict=True):
        async with stage.submissions(pace(len(part), LOAD_SECONDS), plan=part):
            await asyncio.sleep(BEFORE_ALARM_SECONDS)
            lasted = await _sound(stage, alarm)
        await stage.all_ended()
        accepted = [each for each in stage.client.accepted if lasted.covers(each.at)]
        stage.require(bool(accepted), f"nothing was accepted during the {alarm.name} alarm")
        over = lasted.ended or lasted.began
        waits = await stage.waits(since=over, accepted_before=over)
        stage.figures[f"waited_for_{alarm.name}"] = len(waits)
        stage.recovered(
            waits,
            "from an alarm's end to the claim of each job that waited for it",
            limit=BACKLOG_GONE_SECONDS,
        )
    stage.require_no_refusal()


async def _sound(stage: Stage, alarm: Alarm) -> Outage:
    """Raise an alarm for its minute; from when to when it lasted."""
    broker = stage.cluster.rabbitmq
    await rabbitmqctl(broker, *alarm.raise_it)
    lasted = Outage(time.time())
    await asyncio.sleep(ALARM_SECONDS)
    if alarm.said in await rabbitmqctl(broker, "alarms", tool="rabbitmq-diagnostics"):
        stage.fault(f"{alarm.name} alarm")
    else:
        stage.require(False, f"the broker was in no {alarm.name} alarm")
    await rabbitmqctl(broker, *alarm.end_it)
    lasted.ended = time.time()
    return lasted


SCENARIO = Scenario(
    id="C8",
    title="Broker in alarm",
    fault="RabbitMQ raises its memory alarm, then its disk alarm, for 60 s each",
    asserts="submissions go on; all that waited is taken within 60 s of an alarm's end",
    jobs=3_000,
    play=play,
)
