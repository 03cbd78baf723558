"""Compilation of the vision tower for this machine's CPU, with frozen, packed weights, and its cache on disk.

One compilation serves passes of any size up to the largest bucket. It needs a C++ compiler and takes about a
minute. Later starts load the result in a second and need no compiler. Compiled towers are kept in
`$TRITONCLIP_CACHE_DIR`, by default `~/.cache/tritonclip`; the files can be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import locale
import os
import platform
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from clip_common.cpu import cpu_flags
from clip_vision import VisionModel

MIN_COSINE = 0.9999
"""Least cosine between the embeddings of the compiled and the uncompiled tower."""


class CompileError(RuntimeError):
    """The tower cannot be compiled here, so it must run uncompiled; the text says why."""


def load_or_compile(
    model: VisionModel, directory: Path, largest: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load the compiled tower from disk, or compile it and save it there.

    Args:
        model: The tower on the CPU, with its precision set.
        directory: The version directory. A change of its weights or code requires another compilation.
        largest: Images in the largest pass.

    Raises:
        CompileError: The tower cannot be compiled. Use `model` itself.
    """
    try:
        path = cache_directory() / f"vision-{fingerprint(model, directory, largest)}.pt2"
        if not path.exists():
            _compile(model, path, largest)
        compiled = _load(path)
    except Exception as error:  # torch and its compilers raise nearly anything.
        raise CompileError(f"{type(error).__name__}: {str(error)[:500]}") from error
    _check(model, compiled)
    return compiled


def _load(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch does not compare checksums
                raise CompileError(f"{path} is damaged: {damaged}")
        with _temporary_tmpdir():
            compiled: Callable[[torch.Tensor], torch.Tensor] = torch._inductor.aoti_load_package(str(path))
    except Exception:
        path.unlink()  # the next start compiles it again
        raise
    return compiled


@contextmanager
def _temporary_tmpdir() -> Iterator[None]:
    """Point `TMPDIR` to a directory that is removed on exit.

    torch unpacks a compiled tower into a temporary directory, hundreds of megabytes, and removes it when the
    tower is destroyed. That never happens if the process is killed or Triton ends it. Once loaded, the
    library no longer needs its files.
    """
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="tritonclip-") as directory:
        os.environ["TMPDIR"] = directory
        try:
            yield
        finally:
            del os.environ["TMPDIR"]
            if before is not None:
                os.environ["TMPDIR"] = before


def cache_directory() -> Path:
    """Return the directory of the compiled towers, creating it if necessary."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise CompileError("no home directory; set TRITONCLIP_CACHE_DIR") from error
    directory = Path(os.environ.get("TRITONCLIP_CACHE_DIR") or home / "tritonclip")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def fingerprint(model: VisionModel, directory: Path, largest: int) -> str:
    """Return a key for weights, code, precision, torch version, CPU, threads and largest pass."""
    files = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["files"]
    sources = {name: files[name]["sha256"] for name in sorted(files) if name.startswith(("vision", "clip_"))}
    precision = str(model.patch_embedding.weight.dtype)
    machine = [platform.machine(), sorted(cpu_flags()), torch.get_num_threads(), torch.__version__]
    parts = json.dumps([sources, precision, machine, largest])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _compile(model: VisionModel, path: Path, largest: int) -> None:
    # Triton's Python runs in the C locale, but the sources for the compiler are UTF-8.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    side = model.grid * model.patch
    example = torch.zeros((min(8, largest), 3, side, side), dtype=torch.uint8)
    size = torch.export.Dim("size", min=1, max=largest)
    # Worker processes would run sys.executable, which is not Python inside Triton.
    settings = {"freezing": True, "compile_threads": 1}
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, torch.no_grad():
        partial = Path(scratch) / "vision.pt2"
        program = torch.export.export(model, (example,), dynamic_shapes=({0: size},))
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(partial), inductor_configs=settings
        )
        partial.replace(path)


@torch.inference_mode()
def _check(model: VisionModel, compiled: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Reject a compiled tower whose embeddings differ from the uncompiled tower's."""
    side = model.grid * model.patch
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator())
    cosine = (model(pixels) * compiled(pixels)).sum(dim=1).min().item()
    if not cosine >= MIN_COSINE:
        raise CompileError(f"its embeddings differ from the uncompiled tower's: cosine {cosine:.6f}")
