"""Memory that processes share: segment, layout, queue, slots, ready sets, bells, counters."""
