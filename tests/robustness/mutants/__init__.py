"""Mutants of Plait: small faults put in on purpose, to see which of them the tests find."""
