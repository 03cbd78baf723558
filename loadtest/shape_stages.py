"""Old path of the shape `stages`, kept for one release: set TRITONCLIP_LOAD_SHAPE=stages instead."""

import sys

from load.shapes import StagesShape as StagesShape

print("loadtest/shape_stages.py moved: set TRITONCLIP_LOAD_SHAPE=stages", file=sys.stderr)  # noqa: T201
