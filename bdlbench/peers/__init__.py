"""The same work done by other libraries, by plain torch and by this package, timed in turn in one process."""
