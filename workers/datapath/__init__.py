"""A packet's whole way between sockets and queues: receivers, consumers, and whoever holds a peer."""
