"""Correctness and speed on a GPU machine without a network."""
