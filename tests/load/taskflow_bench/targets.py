"""Ratios of TaskFlow to others in one run, and what they ought to be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from taskflow_bench.contestants import PROBE, TASKFLOW
from taskflow_bench.report import Report, Turn, figure

_Rate = Callable[[Turn], float]

_PROBES = frozenset({PROBE, "lean-probe"})


def _accepted(turn: Turn) -> float:
    return turn.accepted.per_second


def _drained(turn: Turn) -> float:
    return turn.drained.per_second


def _both(turn: Turn) -> float:
    return turn.both.per_second


RATES: Mapping[str, _Rate] = {
    "accepted/s": _accepted,
    "drained/s": _drained,
    "both at once": _both,
}

OF_CELERY_ACCEPTED = 10.0
OF_BEST_PEER_DRAINED = 15.0
OF_BEST_PEER_BOTH = 9.0
OF_PROBE: Mapping[str, float] = dict.fromkeys(RATES, 0.8)

GATE: Mapping[str, float] = {"accepted/s": 0.2, "drained/s": 0.12, "both at once": 0.2}
"""Least ratios to the full probe in `make bench-gate`: less than half of what was measured when
they were set, as a short run on a machine that others use strays."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One ratio of medians and its goal."""

    what: str
    ratio: float
    least: float

    @property
    def is_met(self) -> bool:
        """Whether it is reached."""
        return self.ratio >= self.least


def verdicts(report: Report) -> list[Verdict]:
    """Those that this run has the contestants for."""
    ran = report.contestants
    if TASKFLOW not in ran:
        return []
    peers = [name for name in ran if name not in _PROBES and name != TASKFLOW]
    found = []
    if "celery" in ran:
        ratio = _ratio(report, _accepted, ["celery"])
        found.append(Verdict("accepted/s to Celery's", ratio, OF_CELERY_ACCEPTED))
    if peers:
        ratio = _ratio(report, _drained, peers)
        found.append(Verdict("drained/s to the best peer's", ratio, OF_BEST_PEER_DRAINED))
        ratio = _ratio(report, _both, peers)
        found.append(Verdict("both at once to the best peer's", ratio, OF_BEST_PEER_BOTH))
    return found + of_probe(report, OF_PROBE)


def of_probe(report: Report, least: Mapping[str, float]) -> list[Verdict]:
    """Each rate to the full probe's, if that ran; `least` is by the names of `RATES`."""
    if PROBE not in report.contestants:
        return []
    return [
        Verdict(f"{name} to the full probe's", _ratio(report, rate, [PROBE]), least[name])
        for name, rate in RATES.items()
    ]


def _ratio(report: Report, rate: _Rate, others: Sequence[str]) -> float:
    best = max(_median(report, rate, name) for name in others)
    return _median(report, rate, TASKFLOW) / best if best else 0.0


def _median(report: Report, rate: _Rate, name: str) -> float:
    return figure(map(rate, report.turns_of(name))).median
