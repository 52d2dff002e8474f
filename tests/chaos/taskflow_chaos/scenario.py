"""What a scenario is, and which there are."""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from taskflow_chaos import scenarios
from taskflow_chaos.cluster import Layout
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import Mix

GATE = ("C1", "C3", "C5", "C10")
GATE_JOBS = 1_000


class UnknownScenario(Exception):
    """There is none with this id; the text names those there are."""


@dataclass(frozen=True)
class Scenario:
    """A fault, and what must hold all the same.

    `play` injects the fault while jobs run, and states by `stage.require` what must hold beyond
    the invariants. `asserts` says that in words, for the scorecard. `limit_seconds` ends a run
    that hangs. `surroundings` is entered before anything else, with the scenario's folder, and may
    raise `CannotRun`.
    """

    id: str
    title: str
    fault: str
    asserts: str
    jobs: int
    play: Callable[[Stage], Awaitable[None]]
    mix: Mix = field(default_factory=Mix)
    layout: Layout = field(default_factory=Layout)
    limit_seconds: float = 1_200.0
    surroundings: Callable[[Path], AbstractContextManager[None]] = lambda _folder: nullcontext()


def all_scenarios() -> dict[str, Scenario]:
    """Every `SCENARIO` of the modules in `scenarios`, by id and in the order of their numbers."""
    found = []
    for module in pkgutil.iter_modules(scenarios.__path__, f"{scenarios.__name__}."):
        scenario: Scenario = importlib.import_module(module.name).SCENARIO
        found.append(scenario)
    return {each.id: each for each in sorted(found, key=lambda each: int(each.id[1:]))}


def chosen_scenarios(ids: Sequence[str]) -> list[Scenario]:
    """Those with these ids (upper or lower case), all of them for none.

    Raises:
        UnknownScenario: there is none with one of the ids.
    """
    known = all_scenarios()
    wanted = [each.upper() for each in ids] or list(known)
    if unknown := [each for each in wanted if each not in known]:
        raise UnknownScenario(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[each] for each in wanted]
