"""The faults of all scenarios, each server and service with its own: what C19 mixes.

Outages last 5 to 30 s, also where the scenario of its own has a minute: a mix of those would leave
no moment without one.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from taskflow_chaos import faults
from taskflow_chaos.keeper import Keeper
from taskflow_chaos.scenarios.c08_broker_alarm import ALARMS, Alarm
from taskflow_chaos.stage import Stage

SHORTEST_FAULT_SECONDS, LONGEST_FAULT_SECONDS = 5.0, 30.0
FROZEN_WORKER_SECONDS = 30.0
TERMINATED_AT_ONCE = 10
SLOW_SECONDS = 5.0


@dataclass(frozen=True)
class Fault:
    """`inject` returns when it is over."""

    name: str
    inject: Callable[[Stage, random.Random], Awaitable[object]]


@dataclass(frozen=True)
class Lane:
    """Faults of which one follows the other."""

    name: str
    faults: Sequence[Fault]


def _seconds(rng: random.Random) -> float:
    return rng.uniform(SHORTEST_FAULT_SECONDS, LONGEST_FAULT_SECONDS)


async def _hold_pointers_and_kill(stage: Stage, rng: random.Random) -> None:
    """The APIs commit and cannot publish; then they die (C4)."""
    proxy = stage.cluster.proxies["rabbitmq"]
    await faults.cut_off(proxy, rng.uniform(1.0, 3.0))
    for api in stage.cluster.apis:
        api.kill()
    proxy.cut()


async def _restart(service: Keeper) -> None:
    """As an operator does; who is killed meanwhile by another fault has ended as well."""
    with contextlib.suppress(TimeoutError):
        await service.restart()


async def _terminate(stage: Stage, rng: random.Random) -> None:
    await faults.terminate_backends(
        stage, rng, rng.randint(10, 40), at_once=TERMINATED_AT_ONCE, wave_seconds=0.5
    )


async def _flush(stage: Stage, _rng: random.Random) -> None:
    await faults.flush_redis(stage.cluster.redis)


def _alarm(alarm: Alarm) -> Fault:
    async def sound(stage: Stage, rng: random.Random) -> None:
        await faults.raise_alarm(
            stage.cluster.rabbitmq, alarm.raise_it, alarm.end_it, _seconds(rng)
        )

    return Fault(f"{alarm.name} alarm", sound)


_DATABASE = (
    Fault("PostgreSQL immediate restart", lambda stage, _: faults.restart_database(stage)),
    Fault(
        "PostgreSQL SIGSTOP",
        lambda stage, rng: faults.freeze_server(stage.cluster.postgres, _seconds(rng)),
    ),
    Fault("backends terminated", _terminate),
)
_FULL_DISK = (
    Fault(
        "PostgreSQL disk full for tables",
        lambda stage, rng: faults.fill_database_disk(stage, _seconds(rng), ends_wal=False),
    ),
    Fault(
        "PostgreSQL disk full for tables and log",
        lambda stage, rng: faults.fill_database_disk(stage, _seconds(rng), ends_wal=True),
    ),
)
_BROKER = (
    Fault("broker kill -9", lambda stage, _: faults.kill_server(stage.cluster.rabbitmq)),
    Fault(
        "broker SIGSTOP",
        lambda stage, rng: faults.freeze_server(stage.cluster.rabbitmq, _seconds(rng)),
    ),
    *map(_alarm, ALARMS),
    Fault("queues purged", lambda stage, _: faults.purge_queues(stage.cluster.rabbitmq)),
    Fault("broker reset", lambda stage, _: faults.reset_broker(stage.cluster.rabbitmq)),
)
_REDIS = (
    Fault(
        "Redis kill -9",
        lambda stage, rng: faults.kill_server(stage.cluster.redis, _seconds(rng)),
    ),
    Fault(
        "Redis SIGSTOP",
        lambda stage, rng: faults.freeze_server(stage.cluster.redis, _seconds(rng)),
    ),
    Fault("Redis FLUSHALL", _flush),
)
_OBJECT_STORE = (
    Fault(
        "S3 away",
        lambda stage, rng: faults.take_down(stage.cluster.proxies["s3"], _seconds(rng)),
    ),
    Fault(
        "S3 slow",
        lambda stage, rng: faults.slow_down(
            stage.cluster.proxies["s3"], SLOW_SECONDS, _seconds(rng)
        ),
    ),
    Fault(
        "S3 cuts answers short",
        lambda stage, rng: faults.cut_answers(stage.cluster.proxies["s3"], rng, _seconds(rng)),
    ),
    Fault("S3 kill -9", lambda stage, rng: faults.kill_server(stage.cluster.s3, _seconds(rng))),
)
_NETWORK = (
    Fault(
        "APIs and a consumer cut off from the broker",
        lambda stage, rng: faults.cut_off(stage.cluster.proxies["rabbitmq"], _seconds(rng)),
    ),
    Fault(
        "a consumer and a scheduler cut off from PostgreSQL",
        lambda stage, rng: faults.cut_off(stage.cluster.proxies["postgres"], _seconds(rng)),
    ),
    Fault("APIs killed with pointers held back", _hold_pointers_and_kill),
)


async def _kill(service: Keeper) -> None:
    service.kill()


def _of_services(role: str, services: Callable[[Stage], Sequence[Keeper]]) -> tuple[Fault, ...]:
    return (
        Fault(f"{role} kill -9", lambda stage, rng: _kill(rng.choice(services(stage)))),
        Fault(f"{role} SIGTERM", lambda stage, rng: _restart(rng.choice(services(stage)))),
    )


_CONSUMERS = (
    *_of_services("consumer", lambda stage: stage.cluster.consumers),
    Fault(
        "consumer SIGSTOP",
        lambda stage, rng: faults.freeze_service(
            rng.choice(stage.cluster.consumers),
            FROZEN_WORKER_SECONDS,
            with_children=rng.random() < 0.5,
        ),
    ),
)


def lanes(*, with_full_disk: bool) -> list[Lane]:
    """What goes on side by side."""
    return [
        Lane("PostgreSQL", (*_DATABASE, *(_FULL_DISK if with_full_disk else ()))),
        Lane("RabbitMQ", _BROKER),
        Lane("Redis", _REDIS),
        Lane("S3", _OBJECT_STORE),
        Lane("network", _NETWORK),
        Lane("APIs", _of_services("API", lambda stage: stage.cluster.apis)),
        Lane("consumers", _CONSUMERS),
        Lane("schedulers", _of_services("scheduler", lambda stage: stage.cluster.schedulers)),
    ]


def fault_order(lane: Lane, rng: random.Random) -> Iterator[Fault]:
    """All of a lane's faults in random order, again and again."""
    while True:
        yield from rng.sample(lane.faults, len(lane.faults))
