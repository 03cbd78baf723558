"""The load: settings, workload, calls, arrivals, and what became of them."""
