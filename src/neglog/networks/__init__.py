"""Networks as functions of their weights, and the uncertainty of these."""
