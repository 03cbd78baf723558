"""Comparison of this system with its peers and with the limits of the machine."""
