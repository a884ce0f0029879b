"""A network's loss where its linear heads, and the constants beside them, are at their optimum."""
