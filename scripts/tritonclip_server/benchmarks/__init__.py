"""Measure this system, alone and against others."""
