"""The engine's C, held against plain Python models."""
