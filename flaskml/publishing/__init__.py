"""An estimator becomes an active version: inspected, stored, and tried in a child process."""
