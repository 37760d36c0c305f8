"""The protocol simulated: two engines of shipped code, a lossy link, a clock that the plan alone moves."""
