"""How long to pause before the next try at a server that is away."""

import random


def pause_seconds(failures: int, *, first: float = 0.1, last: float = 3.0) -> float:
    """The pause after the `failures`-th failure in a row: doubling, bounded, jittered (seconds).

    The jitter keeps a fleet from coming back all at once when the server does.
    """
    longest = min(first * 2 ** min(failures - 1, 16), last)
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, not a secret
