"""What the statements take from the table of transitions: the one place where it becomes SQL."""

from collections.abc import Iterable
from typing import LiteralString

from taskflow.jobs.states import JobEvent, JobState, sources


def state_list(states: Iterable[JobState]) -> LiteralString:
    """A SQL list of state literals, as in `state IN (...)`."""
    return "({})".format(", ".join(f"'{state}'" for state in sorted(states)))


def from_states(event: JobEvent) -> LiteralString:
    """The SQL list of the states in which `event` may happen."""
    return state_list(sources(event))
