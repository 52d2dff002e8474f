"""Which of many that are done together keeps the others back: found by halving."""

MOST_WAITS = 20
"""Of one call: by tenths of a second and half seconds, two to six seconds in all. Each row that
can't be stored and is found on the way may cost one of them."""
WAITS_ALONE = 4
"""Of these, by jobs that are tried alone: the first that is found waits as long as this, others
once."""


class Halving:
    """For the jobs that keep all others back: how many are tried at once, and how long they wait.

    Those for which a row can't be stored, or somebody holds what they are linked to, are found by
    halving. What is found is noted before it is noted as answered.
    """

    def __init__(self, jobs: int) -> None:
        """`jobs`: the most that are tried at once."""
        self._jobs = jobs
        self._suspects = 0
        """Of so many next ones at least one keeps the others back."""
        self._waits = 0
        self._waits_alone = 0

    @property
    def at_once(self) -> int:
        """How many are to be tried next."""
        return max(1, self._suspects // 2) if self._suspects else self._jobs

    def is_brisk(self, jobs: int) -> bool:
        """Whether so many are not to wait long for what others hold: some have waited before."""
        return self._waits > 0 and jobs > 1

    def goes_on_after_wait(self, jobs: int) -> bool:
        """Whether so many, having waited for nothing, are to be tried again, or half of them."""
        self._waits += 1
        self._waits_alone += jobs == 1
        if self._waits >= MOST_WAITS:
            return False
        return self.goes_on_by_halves(jobs) or self._waits_alone < WAITS_ALONE

    def goes_on_by_halves(self, jobs: int) -> bool:
        """Whether half of so many are to be tried next; else the one is found."""
        self._suspects = jobs
        return jobs > 1

    def note_answered(self, jobs: int) -> None:
        """So many of the next ones have their answers."""
        self._suspects = max(0, self._suspects - jobs)

    def note_found(self) -> None:
        """Of the others nothing is known."""
        self._suspects = 0
