"""Many data sets under one model, fitted at once."""
