"""What a run came to. Times in seconds but where the name says milliseconds, memory in MiB."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from taskflow_testing.versions import Versions


class Used(BaseModel):
    """CPU of a phase from its begin until it was seen to be over: `seconds` of wall time."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    cpu_seconds: Mapping[str, float]
    """By process."""

    @property
    def cores(self) -> float:
        """CPU seconds a second, of all processes together."""
        return sum(self.cpu_seconds.values()) / self.seconds


class Phase(BaseModel):
    """A part of a contestant's turn, and what it used."""

    model_config = ConfigDict(frozen=True)

    jobs: int
    seconds: float
    """What the rate is counted over."""
    used: Used
    generator_cores: float = 0.0

    @property
    def per_second(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds if self.seconds else 0.0

    @property
    def cpu_ms_per_job(self) -> Mapping[str, float]:
        """By process."""
        jobs = max(1, self.jobs)
        return {name: used * 1000 / jobs for name, used in self.used.cpu_seconds.items()}


class Turn(BaseModel):
    """One contestant's part of a round."""

    model_config = ConfigDict(frozen=True)

    contestant: str
    round: int
    accepted: Phase
    """POSTs answered while no worker ran."""
    drained: Phase
    """Those jobs done while nobody posted, from when a tenth was done to the last end."""
    both: Phase
    """Both at once, from the first POST to the last end."""
    latency: Phase
    post_to_completed_ms: Sequence[float]
    """Each job of the phase `latency`, in order of size."""
    memory_mib: Mapping[str, float]
    """By process, the median while both went on."""
    peak_memory_mib: Mapping[str, float]
    """By process, the largest of all looks."""

    @property
    def phases(self) -> Mapping[str, Phase]:
        """By name."""
        return {
            "accepted": self.accepted,
            "drained": self.drained,
            "both": self.both,
            "latency": self.latency,
        }

    def latency_ms(self, share: float) -> float:
        """The time that `share` (of 1) of the jobs don't exceed."""
        return share_of(self.post_to_completed_ms, share)


class GeneratorCost(BaseModel):
    """What the load generator takes by itself, against an application that does nothing."""

    model_config = ConfigDict(frozen=True)

    requests_per_second: float
    cpu_ms_per_request: float


class Machine(BaseModel):
    """What it ran on."""

    model_config = ConfigDict(frozen=True)

    processor: str
    memory_gib: float
    kernel: str
    versions: Versions
    packages: Mapping[str, str]
    """The peers' versions."""


class Report(BaseModel):
    """A run of `make bench`."""

    model_config = ConfigDict(frozen=True)

    date: str
    rounds: int
    jobs: int
    seconds: float
    machine: Machine
    generator: GeneratorCost
    turns: Sequence[Turn]

    def turns_of(self, contestant: str) -> list[Turn]:
        """Its turns, round by round."""
        return [turn for turn in self.turns if turn.contestant == contestant]

    @property
    def contestants(self) -> list[str]:
        """All names, in the order of their first turns."""
        return list(dict.fromkeys(turn.contestant for turn in self.turns))


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the rounds, and the range that they span."""

    median: float
    least: float
    most: float


def share_of(in_order: Sequence[float], share: float) -> float:
    """What `share` (of 1) of these values, which are in order of size, don't exceed."""
    return in_order[min(len(in_order) - 1, int(share * len(in_order)))]


def figure(values: Iterable[float]) -> Figure:
    """Of at least one value."""
    found = list(values)
    return Figure(statistics.median(found), min(found), max(found))


def worker_and_api(memory: Mapping[str, float]) -> float:
    """What the two processes take together."""
    return memory.get("api", 0.0) + memory.get("worker", 0.0)


COLUMNS: Mapping[str, Callable[[Turn], float]] = {
    "accepted/s": lambda turn: turn.accepted.per_second,
    "drained/s": lambda turn: turn.drained.per_second,
    "both at once, completed/s": lambda turn: turn.both.per_second,
    "POST to completed p50 ms": lambda turn: turn.latency_ms(0.50),
    "p99 ms": lambda turn: turn.latency_ms(0.99),
    "API + worker MiB": lambda turn: worker_and_api(turn.memory_mib),
    "peak MiB": lambda turn: worker_and_api(turn.peak_memory_mib),
}
"""The figures of a turn, as they are printed."""
