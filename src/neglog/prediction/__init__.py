"""Predictive distributions of new rows, and proper scores of these."""
