"""Soak test: a long load, samples of every process, and the check for growth."""
