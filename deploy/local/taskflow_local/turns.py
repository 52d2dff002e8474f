"""Commands on one stack take turns."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskflow_local.console import say


@contextmanager
def turn(directory: Path) -> Iterator[None]:
    """Hold the stack in `directory` alone, after any other command that holds it now."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, not in it: the directory itself comes and goes.
    with directory.with_name(f"{directory.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another command is starting or stopping the same servers; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
