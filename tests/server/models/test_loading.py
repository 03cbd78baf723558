"""Loading the encoders: their processes import torch at the same time, on few cores."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VISION = """
import numpy as np
from clip_encoder import DirectEncoder
from clip_vision import load_vision_model

model = load_vision_model(directory)
side = model.grid * model.patch
DirectEncoder(model, torch.device("cpu"), 4).encode([np.zeros((1, 3, side, side), np.uint8)])
"""
TEXT = """
from clip_text import TextEncoder, TextTokenizer, load_text_model

tokenizer = TextTokenizer(directory / "tokenizer.json", 77)
TextEncoder(load_text_model(directory), tokenizer, torch.device("cpu"), 64, 1024, 0).encode(["a cat"])
"""
HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "transformers")


@pytest.mark.parametrize(
    ("model", "use"), [("vision_encoder", VISION), ("text_encoder", TEXT)], ids=["vision", "text"]
)
def test_encoder_imports_neither_compiler_nor_transformers(demo_repository, model, use):
    # Some operations on the device "meta" import torch's compiler, for 2 s of a core and 50 MB.
    directory = demo_repository / model / "1"
    program = f"""
import gc
import os
import sys
from pathlib import Path
from clip_common.torch_setup import torch

assert gc.isenabled() and gc.get_freeze_count() > 100_000
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"

directory = Path({str(directory)!r})
{use}
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(directory)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert ended.stdout == "[]\n"
