"""What a check says: how things are, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How things are, worst last."""

    OK = "ok"
    WARN = "warn"
    UNSEEN = "unseen"
    """It could not be looked at."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of the report; `details` are examples of what is wrong."""

    level: Level
    subject: str
    text: str
    what_to_do: str | None = None
    details: Sequence[str] = ()


def ok(subject: str, text: str) -> Diagnosis:
    """All is well."""
    return Diagnosis(Level.OK, subject, text)


def warn(subject: str, text: str, what_to_do: str, details: Sequence[str] = ()) -> Diagnosis:
    """It works, but somebody should look."""
    return Diagnosis(Level.WARN, subject, text, what_to_do, details)


def fail(subject: str, text: str, what_to_do: str, details: Sequence[str] = ()) -> Diagnosis:
    """Something is broken."""
    return Diagnosis(Level.FAIL, subject, text, what_to_do, details)


def unseen(subject: str, text: str, what_to_do: str) -> Diagnosis:
    """It could not be looked at, so it may be well or not."""
    return Diagnosis(Level.UNSEEN, subject, text, what_to_do)


def exit_code(diagnoses: Sequence[Diagnosis]) -> int:
    """1: something is broken; 2: something could not be looked at; 0: neither."""
    levels = {diagnosis.level for diagnosis in diagnoses}
    if Level.FAIL in levels:
        return 1
    return 2 if Level.UNSEEN in levels else 0
