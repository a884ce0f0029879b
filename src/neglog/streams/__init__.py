"""Rows of data sets and loaders of torch, of which a batch is held at a time."""
