"""The supervisor: opens sockets and the TUN, starts, watches, replaces, scales and upgrades the others."""
