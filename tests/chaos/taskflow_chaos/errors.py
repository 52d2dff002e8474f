"""Errors that end a run of a scenario without a verdict."""


class CannotRun(Exception):
    """A scenario needs what is not to be had here; the text says what. It is skipped, aloud."""
