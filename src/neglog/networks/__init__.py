"""Networks as functions of their weights, and the doubt about these."""
