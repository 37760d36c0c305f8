"""Looking at a running engine: show, top, events, exporter."""
