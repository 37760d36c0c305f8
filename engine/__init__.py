"""The WireGuard protocol: bytes, state and now in; bytes and events out. No socket, process or clock."""
