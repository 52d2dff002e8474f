"""What the handlers noted while they ran."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID


@dataclass(frozen=True)
class Effect:
    """One line: an attempt `began` or was `done`, in which process and when (since 1970)."""

    what: str
    job_id: UUID
    attempt: int
    pid: int
    at: float


def read_effects(folder: Path) -> list[Effect]:
    """All lines so far, by time. A line that is being written, or was when its writer died, isn't
    among them."""
    effects = [effect for path in folder.glob("*.jsonl") for effect in _lines(path)]
    return sorted(effects, key=lambda effect: effect.at)


def _lines(path: Path) -> Iterable[Effect]:
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        found = json.loads(line)
        yield Effect(
            found["what"], UUID(found["job_id"]), found["attempt"], found["pid"], found["at"]
        )
