"""The comparison of `tritonclip-server benchmark`."""
