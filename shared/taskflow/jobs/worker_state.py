"""The states of a worker, as its row tells them."""

from enum import StrEnum


class WorkerState(StrEnum):
    """What a worker says of itself; one that says nothing for a while is lost."""

    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
