"""Peers, and parts of this system, that the comparison runs in separate processes."""
