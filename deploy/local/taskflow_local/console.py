"""What the user sees: progress and results on standard output."""

import sys


def say(text: str) -> None:
    """Write lines at once, so that they keep their place among those of child processes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
