"""What ends a run."""


class BenchBroke(Exception):
    """A contestant did not do what is measured; the text says what and where to look."""


class GeneratorFailed(BenchBroke):
    """The load generator ended before its load did; the text is what it said."""
