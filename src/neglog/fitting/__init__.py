"""From a function of one vector to a frozen fit: where to start, which solver, and whether to trust it."""
