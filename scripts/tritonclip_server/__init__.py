"""Prepare a Triton model repository from a CLIP checkpoint, and serve, roll out and measure it."""

__version__ = "0.1.0"
