"""The command line: plait, and plaitd IFACE."""
