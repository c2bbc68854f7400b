"""Publishing: a fitted estimator becomes an active version. It is inspected, stored and tried in a child process."""
