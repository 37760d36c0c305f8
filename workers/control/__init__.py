"""The control process: handshakes, peers, timers, configuration, the UAPI's clients, events."""
