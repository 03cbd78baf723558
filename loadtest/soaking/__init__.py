"""A soak: a long load with samples of every process, and the judgment of what grew."""
