"""What a check found."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """Whether it is well; SKIPPED could not be found out."""

    OK = "ok"
    SKIPPED = "SKIPPED"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A check's subject, what it found, and a line for each detail."""

    subject: str
    level: Level
    text: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        first = f"{self.level.value:7}  {self.subject:15}  {self.text}"
        return "\n".join([first, *(f"         - {line}" for line in self.details)])


class AuditBroke(Exception):
    """A tool is missing or did not do its work; the text is for the terminal."""
