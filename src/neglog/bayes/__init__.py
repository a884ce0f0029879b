"""Priors, and draws from what they become with data."""
