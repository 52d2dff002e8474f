"""What surrounds a handler's call: one concern a file, folded into one chain at start."""
