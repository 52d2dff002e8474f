"""`make bench-more`: how TaskFlow's figures change with what is asked of it."""
