"""The command `tritonclip`."""
