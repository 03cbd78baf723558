"""Start, watch and stop a real Triton server."""
