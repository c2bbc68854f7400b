"""From a table to a stored version: data sets, estimators, the trainer, and background jobs."""
