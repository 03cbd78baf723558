"""Load generator: settings, workload, callers, arrivals, and the outcomes of requests."""
