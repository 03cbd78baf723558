"""Import the code of a model's version folder in this process, for measurements without Triton."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "clip_"


class VersionFinder(MetaPathFinder):
    """Importer of the modules `clip_*` in version folders, and of no other module.

    To add the whole folder to `sys.path`, as the stub of Triton does, could hide other modules.

    Args:
        folders: Searched in order.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [str(folder) for folder in folders]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if path is None and fullname.startswith(PREFIX):
            return PathFinder.find_spec(fullname, self._folders)
        return None


def import_from_versions(name: str, *folders: Path) -> ModuleType:
    """Import `name`, and the modules that it imports, from version folders.

    Modules that are already imported are not replaced, so a process can use one version of each model.
    """
    sys.meta_path.append(VersionFinder(folders))
    return import_module(name)


def load_model_class(version: Path) -> Any:
    """Import the `TritonPythonModel` of a version folder, which needs a substitute for Triton's utilities."""
    spec = spec_from_file_location(f"{version.parent.name}_model", version / "model.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {version / 'model.py'}")
    module = module_from_spec(spec)
    sys.meta_path.append(VersionFinder([version]))  # stays: a model imports some modules when it initializes
    spec.loader.exec_module(module)
    return module.TritonPythonModel
