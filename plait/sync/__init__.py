"""`plait sync`: an engine's peers follow a table of a database (docs/fleet.md)."""
