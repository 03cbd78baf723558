"""Moved: set TRITONCLIP_LOAD_SHAPE=stages instead. Kept for one release."""

import sys

from load.shapes import StagesShape as StagesShape

print("loadtest/shape_stages.py moved: set TRITONCLIP_LOAD_SHAPE=stages", file=sys.stderr)  # noqa: T201
