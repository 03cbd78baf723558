"""Conversion of every supported image input to encoded bytes or pixel values."""
