"""The tests, in the layout of the source."""

import os

# Fits of the suite run side by side, and OpenMP's threads of one wait for a processor by keeping the other from it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
