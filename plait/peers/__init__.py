"""`plait peers`: be asked about unknown keys, and answer from a program or a file (docs/on-demand.md)."""
