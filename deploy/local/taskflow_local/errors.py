"""What this package raises for the person at the terminal to read."""


class StackError(Exception):
    """Something the user can mend; its text is one or a few lines and says what to do."""
