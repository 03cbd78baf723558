"""The vision tower compiled for this machine's CPU, its weights frozen and packed, and kept on disk.

One compilation serves passes of any size up to the largest bucket; it takes a C++ compiler and about a
minute. Every later start loads the result in a second and needs no compiler. What was compiled is kept in
`$TRITONCLIP_CACHE_DIR`, or else `~/.cache/tritonclip`; the files can be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import locale
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from clip_common.tower import cpu_flags
from clip_vision import VisionModel

SAME_DIRECTION = 0.9999
"""Least cosine between what the compiled and the interpreted tower make of an image."""


class CompileError(RuntimeError):
    """The tower cannot be compiled here, and is served as it is; the text says why."""


def load_or_compile(
    model: VisionModel, directory: Path, largest: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The compiled form of `model`, from disk where it lies there.

    Args:
        model: On the CPU, its precision set.
        directory: The version directory: what it holds decides whether a compiled form still fits.
        largest: Images of the largest pass.

    Raises:
        CompileError: Serve `model` itself.
    """
    try:
        path = cache_directory() / f"vision-{fingerprint(model, directory, largest)}.pt2"
        if not path.exists():
            _compile(model, path, largest)
        compiled = _load(path)
    except Exception as error:  # The compilers below raise nearly anything.
        raise CompileError(f"{type(error).__name__}: {str(error)[:500]}") from error
    _check(model, compiled)
    return compiled


def _load(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    try:
        with _vanishing_temporary_directory():
            compiled: Callable[[torch.Tensor], torch.Tensor] = torch._inductor.aoti_load_package(str(path))
    except Exception:
        path.unlink()  # so that the next start compiles it anew
        raise
    return compiled


@contextmanager
def _vanishing_temporary_directory() -> Iterator[None]:
    """Within it C++ puts temporary files where they are removed at its end.

    torch unpacks a compiled tower into a temporary directory, hundreds of megabytes, and removes it when the
    tower is dropped: never in a process that is killed, or that Triton ends. What is loaded needs no name.
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
    """Where compiled towers are kept; made if need be."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise CompileError("no home directory; set TRITONCLIP_CACHE_DIR") from error
    directory = Path(os.environ.get("TRITONCLIP_CACHE_DIR") or home / "tritonclip")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def fingerprint(model: VisionModel, directory: Path, largest: int) -> str:
    """Identifies weights, code, precision, torch, processor and threads."""
    files = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["files"]
    made_of = {name: files[name]["sha256"] for name in sorted(files) if name.startswith(("vision", "clip_"))}
    precision = str(model.patch_embedding.weight.dtype)
    machine = [platform.machine(), sorted(cpu_flags()), torch.get_num_threads(), torch.__version__]
    parts = json.dumps([made_of, precision, machine, largest])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _compile(model: VisionModel, path: Path, largest: int) -> None:
    # The interpreter inside Triton runs in the C locale, and the compiler's sources are UTF-8.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    side = model.grid * model.patch
    example = torch.zeros((min(8, largest), 3, side, side), dtype=torch.uint8)
    size = torch.export.Dim("size", min=1, max=largest)
    # Worker processes would start from this one's executable, which inside Triton is not Python.
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
    """Refuses a compiled tower that does not answer as the interpreted one."""
    side = model.grid * model.patch
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator())
    cosine = (model(pixels) * compiled(pixels)).sum(dim=1).min().item()
    if not cosine >= SAME_DIRECTION:
        raise CompileError(f"its answers differ: cosine {cosine:.6f} to those of the tower as it is")
