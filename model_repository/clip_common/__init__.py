"""What the Python models share; `prepare` copies the whole package into each of their version folders."""
