"""Designs whose columns are of several kinds, side by side: dense, categorical, sparse."""
