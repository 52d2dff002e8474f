"""The jobs of a scenario: which, in which order, all of it from one seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from taskflow_chaos.handlers import Behaviour


@dataclass(frozen=True)
class Duration:
    """How many of the jobs (a share of 1) take between `shortest` and `longest` seconds."""

    share: float
    shortest: float
    longest: float


@dataclass(frozen=True)
class Mix:
    """What a workload is made of; shares are parts of 1."""

    durations: Sequence[Duration] = (
        Duration(0.80, 0.01, 0.05),
        Duration(0.15, 1.0, 3.0),
        Duration(0.05, 10.0, 10.0),
    )
    fail_once: float = 0.05
    kill_worker: float = 0.01
    cancelled: float = 0.01
    sent_twice: float = 0.02
    """Submitted to both APIs at the same time, with one key."""
    in_thread: float = 0.20


@dataclass(frozen=True)
class PlannedJob:
    """A job before it is submitted.

    `options` are members of the request beside type and payload, such as `timeout_seconds`.
    """

    key: str
    type: str
    seconds: float
    behaviour: Behaviour
    cancel_after_seconds: float | None
    is_sent_twice: bool
    options: Mapping[str, object] = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        """What is posted."""
        return {
            "type": self.type,
            "payload": {"seconds": self.seconds, "behaviour": self.behaviour},
            **self.options,
        }


def plan(seed: int, count: int, mix: Mix | None = None) -> list[PlannedJob]:
    """`count` jobs; shares are met exactly (rounded), so that few jobs have each kind as well."""
    mix = mix or Mix()
    rng = random.Random(seed)
    durations = _dealt(rng, count, [part.share for part in mix.durations])
    behaviours = _dealt(rng, count, [mix.fail_once, mix.kill_worker])
    cancelled = _dealt(rng, count, [mix.cancelled])
    sent_twice = _dealt(rng, count, [mix.sent_twice])
    in_thread = _dealt(rng, count, [mix.in_thread])
    kinds: tuple[Behaviour, ...] = ("fails_once", "kills_worker")
    jobs = []
    for number in range(count):
        part = durations[number]
        # What rounding left over is of the first kind.
        duration = mix.durations[0 if part is None else part]
        behaviour = behaviours[number]
        jobs.append(
            PlannedJob(
                key=f"{seed}-{number:06d}",
                type="chaos.work" if in_thread[number] is None else "chaos.thread",
                seconds=round(rng.uniform(duration.shortest, duration.longest), 3),
                behaviour="completes" if behaviour is None else kinds[behaviour],
                cancel_after_seconds=None if cancelled[number] is None else rng.uniform(0, 2),
                is_sent_twice=sent_twice[number] is not None,
            )
        )
    return jobs


def _dealt(rng: random.Random, count: int, shares: Sequence[float]) -> list[int | None]:
    """For each of `count` jobs which share it belongs to, None for none, in random order."""
    dealt: list[int | None] = []
    for number, share in enumerate(shares):
        dealt += [number] * round(count * share)
    dealt = dealt[:count] + [None] * (count - len(dealt))
    rng.shuffle(dealt)
    return dealt
