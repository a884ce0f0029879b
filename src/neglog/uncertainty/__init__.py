"""Uncertainty of a fit: covariances, intervals, tests, and comparison of fits."""
