"""Who is when."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Entrant = TypeVar("Entrant")


def order(entrants: Sequence[Entrant], rounds: int) -> Iterator[tuple[int, Entrant]]:
    """Each once a round (counted from 1); each round begins with the next one.

    So nobody is always the first, on servers that have just started.
    """
    for number in range(rounds):
        first = number % len(entrants)
        for entrant in [*entrants[first:], *entrants[:first]]:
            yield number + 1, entrant
