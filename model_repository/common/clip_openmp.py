"""Makes torch's OpenMP threads sleep while they wait; to be imported before torch, which loads OpenMP.

By default they spin. Where other processes want the cores too (decoding does, and so does the other encoder),
each parallel region then waits for a thread that waits for a core, and a pass takes many times as long.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
