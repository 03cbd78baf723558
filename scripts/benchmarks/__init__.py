"""What `scripts/benchmark.py` is made of: the load, the contenders, the measurements, and their report."""
