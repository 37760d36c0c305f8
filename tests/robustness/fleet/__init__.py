"""What a fleet of gateways bears when its store, syncs, routing daemons and gateways are killed at random."""
