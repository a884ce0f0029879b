"""Variable projection: a network's loss, minimised over its linear heads and constants."""
