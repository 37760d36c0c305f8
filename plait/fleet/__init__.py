"""One gateway among many: routes to whom it is connected, whether it is ready, how it withdraws."""
