"""What a run of a scenario came to."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from taskflow_testing.versions import Versions


class Result(BaseModel):
    """One run. Times in seconds, but for those that say milliseconds; None: not measured."""

    model_config = ConfigDict(frozen=True)

    scenario: str
    title: str
    fault: str
    asserts: str
    run_at: str
    seed: int
    jobs: int
    full_jobs: int
    """How many jobs the scenario has by itself."""
    failures: list[str]
    """What did not hold; empty: the scenario has passed."""
    faults: Mapping[str, int]
    statuses: Mapping[str, int]
    states: Mapping[str, int]
    submit_p50_ms: float | None = None
    submit_p99_ms: float | None = None
    request_p99_ms: float | None = None
    recovery_means: str = ""
    worst_recovery_seconds: float | None = None
    recoveries: int = 0
    lost_attempts: int | None = None
    republished: int | None = None
    needless_republished: int | None = None
    refused_outcomes: int | None = None
    service_deaths: int | None = None
    invariants: list[str] = []
    lease_samples: int = 0
    figures: Mapping[str, float | int | str] = {}
    """What only this scenario measures."""
    skipped: str = ""
    """Why it did not run at all, if so."""
    seconds: float
    versions: Versions | None = None

    @property
    def passed(self) -> bool:
        """Whether all held."""
        return not self.failures

    def write(self, folder: Path) -> Path:
        """Keep it as `<scenario>.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.scenario}.json"
        path.write_text(self.model_dump_json(indent=2) + "\n")
        return path


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of the values that `share` (of 1) of them don't exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
