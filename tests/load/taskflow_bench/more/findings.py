"""What the experiments came to."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from taskflow_bench.report import Machine

Cell = str | float | None
"""A name, a figure, or none: it could not be measured, or does not apply."""


class Table(BaseModel):
    """Rows below their heads."""

    model_config = ConfigDict(frozen=True)

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Findings(BaseModel):
    """What one experiment has found; notes are sentences."""

    model_config = ConfigDict(frozen=True)

    tables: Sequence[Table]
    notes: Sequence[str] = ()


class Section(BaseModel):
    """An experiment that ran: when, how long (seconds) and at which scale."""

    model_config = ConfigDict(frozen=True)

    experiment: str
    date: str
    seconds: float
    scale: float
    findings: Findings


class MoreReport(BaseModel):
    """A run of `make bench-more`."""

    model_config = ConfigDict(frozen=True)

    machine: Machine
    sections: Sequence[Section]


def ratio(value: Cell, to: Cell) -> float | None:
    """A figure as a multiple of another; None where there is none."""
    if not isinstance(value, float) or not isinstance(to, float) or not to:
        return None
    return value / to
