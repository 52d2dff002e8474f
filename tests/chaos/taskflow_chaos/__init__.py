"""Faults on real processes and servers, and what must hold all the same."""
