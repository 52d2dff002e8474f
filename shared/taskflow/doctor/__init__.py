"""Whether a running system is well: its invariants, and the checks of `taskflow doctor`."""
