"""`make audit`: what TaskFlow is made of, and what is known against it."""
