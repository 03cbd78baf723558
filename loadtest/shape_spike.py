"""Moved: set TRITONCLIP_LOAD_SHAPE=spike instead. Kept for one release."""

import sys

from load.shapes import SpikeShape as SpikeShape

print("loadtest/shape_spike.py moved: set TRITONCLIP_LOAD_SHAPE=spike", file=sys.stderr)  # noqa: T201
