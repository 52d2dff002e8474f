"""How much memory an isolated job may take, kept by the kernel in the job's own process.

RLIMIT_DATA: it counts private memory that can be written, so an allocation past it fails where it
is made, as a MemoryError with a traceback. RLIMIT_AS would also count files that are mapped and
address space that is merely reserved, of which many a library takes gigabytes; a control group
needs rights that a container doesn't have, and kills without a word.
"""

import resource

MEBIBYTE = 1024 * 1024


class MemoryLimit:
    """The limit of this process and, each for itself, of the processes that it starts."""

    def __init__(self, mebibytes: int) -> None:
        self.mebibytes = mebibytes
        self._before = resource.getrlimit(resource.RLIMIT_DATA)

    def impose(self) -> None:
        """Let allocations fail from here on that would go past it."""
        _, hard = self._before
        limit = self.mebibytes * MEBIBYTE
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

    def lift(self) -> None:
        """Undo it: to tell of an error takes memory as well."""
        resource.setrlimit(resource.RLIMIT_DATA, self._before)
