"""Programs whose only network is a tunnel, without root: `plait exec`, `plait.sandbox`."""
