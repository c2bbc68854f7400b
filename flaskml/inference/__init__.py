"""One version in memory: the predictor, its slot, batching, warm-up, and the scoring of files."""
