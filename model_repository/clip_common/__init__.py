"""Shared code of the Python models, which `tritonclip-server prepare` copies into each version folder."""
