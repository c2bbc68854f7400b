"""The features that an estimator takes: learnt from a sample, corrected by people, built into tables."""
