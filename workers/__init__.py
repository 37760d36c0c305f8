"""The processes: supervisor, control, receivers and consumers, and every system call."""
