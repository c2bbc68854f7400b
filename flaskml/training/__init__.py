"""A table becomes a version: data sets, pipelines, the trainer, and background jobs."""
