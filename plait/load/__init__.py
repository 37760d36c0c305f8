"""The load generator: many simulated peers against one gateway, in C, led and reported on by Python."""
