"""What a model is made of, and the log-likelihood of its rows with its derivatives."""
