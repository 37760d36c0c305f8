"""Coverage-guided fuzzing: a target a file, run by scripts/fuzz."""
