"""Make transformers' torchvision image processors importable, the reference of the default image processor.

The Makefile installs torchvision next to the environment, because its compiled part fits one build of torch
only. The image processors need its Python part. This module must be imported before transformers.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

if importlib.util.find_spec("torchvision") is None:
    sys.path.append(str(Path(sys.prefix) / "torchvision"))
    # It registers shapes for operators of the compiled part.
    sys.modules["torchvision._meta_registrations"] = ModuleType("torchvision._meta_registrations")
