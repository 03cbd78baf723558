"""From whatever a caller calls an image to encoded bytes or pixel values."""
