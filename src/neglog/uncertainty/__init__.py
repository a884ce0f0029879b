"""What a fit is in doubt of: covariances, intervals, tests, and which fit to prefer."""
