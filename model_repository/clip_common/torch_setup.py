"""Import torch for a model. Import this module before all others that import torch.

The import takes about 2 s of a core, in three processes that load at the same time. A fifth of it is garbage
collection, which finds nothing: modules stay.
"""

import gc
import os

# Idle OpenMP threads must sleep: spinning, they would keep cores from the other models.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
gc.disable()

import torch  # noqa: E402

gc.freeze()  # collections while serving need not visit torch's objects
gc.enable()

__all__ = ["torch"]
