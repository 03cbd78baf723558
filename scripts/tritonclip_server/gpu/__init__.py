"""Correctness and speed on a GPU machine without network; `gpu_benchmark.sh` runs the parts."""
