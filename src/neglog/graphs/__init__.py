"""Functions of tensors that are evaluated thousands of times, traced once and replayed."""
