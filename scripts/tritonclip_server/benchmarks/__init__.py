"""Benchmarks of the system, alone and against others."""
