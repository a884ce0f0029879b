"""The structure of a model, and the log-likelihood of its rows with its derivatives."""
