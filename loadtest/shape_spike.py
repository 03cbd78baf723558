"""Old path of the shape `spike`, kept for one release: set TRITONCLIP_LOAD_SHAPE=spike instead."""

import sys

from load.shapes import SpikeShape as SpikeShape

print("loadtest/shape_spike.py moved: set TRITONCLIP_LOAD_SHAPE=spike", file=sys.stderr)  # noqa: T201
