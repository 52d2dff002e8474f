"""Sealing what jobs hold before it is stored; importing it needs no cryptography, `ring` does."""
