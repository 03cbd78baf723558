"""Calls without I/O: checks, encoding, decoding, and the flows of steps that both clients run."""
