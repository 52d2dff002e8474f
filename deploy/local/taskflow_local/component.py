"""What a stack is made of: components, each one or more supervised programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from taskflow_local.ports import Port


@dataclass(frozen=True)
class Program:
    """One process under supervisord.

    Whoever starts it waits until it has stayed up for `stays_up_seconds`. `stop_wait_seconds` is
    how long it gets between its stop signal and KILL. The program after it is not started before
    something listens on port `listens_on`.
    """

    name: str
    command: Sequence[str | Path]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stays_up_seconds: int = 0
    stop_signal: str = "TERM"
    stop_wait_seconds: int = 10
    listens_on: int | None = None


class Component(Protocol):
    """A server or service that the stack starts, waits for and stops as one."""

    @property
    def name(self) -> str:
        """The name of the program that a failure is looked up in."""
        ...

    @property
    def start_timeout_seconds(self) -> float:
        """How long it may take from its start until it is ready."""
        ...

    def ports(self) -> Sequence[Port]:
        """Every port it listens on, the one that users know first."""
        ...

    def prepare(self) -> None:
        """Make its directories, data and configuration; repeatable, never called while it runs."""
        ...

    def programs(self) -> Sequence[Program]:
        """Its processes in start order."""
        ...

    def is_ready(self) -> bool:
        """Whether it does its work now; answers within a few seconds, and never raises."""
        ...
