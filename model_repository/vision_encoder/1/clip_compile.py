"""Compilation of the vision tower for this machine's CPU, with frozen, packed weights, and its cache on disk.

One compilation serves passes of any size up to the largest bucket. It needs a C++ compiler and takes about a
minute, in another process, while the model serves with the uncompiled tower. Later starts load the result in
a second and need no compiler. Compiled towers are kept in `$TRITONCLIP_CACHE_DIR`, by default
`~/.cache/tritonclip`; the files can be removed at any time.

    python clip_compile.py DIRECTORY PATH OPTIONS    OPTIONS are the fields of `CompileOptions` as JSON
"""

from __future__ import annotations

import hashlib
import json
import locale
import os
import platform
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from clip_common.cpu import cpu_flags
from clip_common.python import find_python, python_variables
from clip_common.tower import PRECISIONS
from clip_encoder import Forward
from clip_vision import VisionModel, load_vision_model

MIN_COSINE = 0.9999
"""Least cosine between the embeddings of the compiled and the uncompiled tower."""
MAX_REASON_CHARS = 500
PURPOSE = "vision_encoder runs it to compile its tower"
NICENESS = 10
"""Of the process that compiles, so that it takes the time that serving leaves."""


class CompileError(RuntimeError):
    """The tower cannot be compiled here, so it must run uncompiled; the text says why."""


class CompileOptions(NamedTuple):
    """What a compiled tower depends on besides the model's weights and code, and the machine."""

    precision: str
    """dtype of the weights, "bfloat16" for example."""
    threads: int
    """Threads of a pass."""
    largest: int
    """Images in the largest pass."""


class Compilation:
    """The compiled form of a tower: loaded from disk, or made by another process in the meantime.

    Args:
        model: The tower on the CPU, with its precision set.
        directory: The version directory. A change of its weights or code requires another compilation.
        largest: Images in the largest pass.

    Raises:
        CompileError: There is no directory for the cache.
    """

    def __init__(self, model: VisionModel, directory: Path, largest: int) -> None:
        precision = str(model.patch_embedding.weight.dtype).removeprefix("torch.")
        self._model, self._directory = model, directory
        self._options = CompileOptions(precision, torch.get_num_threads(), largest)
        self.path = cache_directory() / f"vision-{fingerprint(directory, self._options)}.pt2"
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def load(self) -> Forward:
        """Load the compiled tower, and compare it with the uncompiled one.

        Raises:
            CompileError: It is damaged, and removed, or its embeddings differ.
        """
        try:
            compiled = _load(self.path)
        except Exception as error:  # torch raises nearly anything
            raise _compile_error(error) from error
        _check(self._model, compiled)
        return compiled

    def start(self, use: Callable[[Forward], None], report: Callable[[str], None]) -> None:
        """Compile in another process, and then call one of two functions in a thread.

        Args:
            use: Called with the tower that `load` returns.
            report: Called with the reason if there is none.

        Raises:
            CompileError: The process cannot be started.
        """
        try:
            script = str(Path(__file__).with_name("clip_compile.py"))
            options = json.dumps(self._options._asdict())
            self._process = subprocess.Popen(
                [find_python(PURPOSE), script, str(self._directory), str(self.path), options],
                env={**os.environ, **python_variables()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise _compile_error(error) from error
        self._thread = threading.Thread(target=self._finish, args=(use, report), name="compile", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the process if it still compiles."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        if self._thread is not None:
            self._thread.join()

    def _finish(self, use: Callable[[Forward], None], report: Callable[[str], None]) -> None:
        assert self._process is not None
        _, errors = self._process.communicate()
        if self._closed:
            return
        try:
            if self._process.returncode:
                last = (errors.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1]
                raise CompileError(last[:MAX_REASON_CHARS])
            compiled = self.load()
        except CompileError as error:
            report(str(error))
        else:
            use(compiled)


def compile_tower(directory: Path, path: Path, options: CompileOptions) -> None:
    """Compile the tower of a version directory, and save it at a path.

    Raises:
        CompileError: The tower cannot be compiled.
    """
    try:
        torch.set_num_threads(options.threads)
        model = load_vision_model(directory)
        model.set_precision(PRECISIONS[options.precision])
        _compile(model, path, options.largest)
    except Exception as error:  # torch and its compilers raise nearly anything
        raise _compile_error(error) from error


def _compile_error(error: Exception) -> CompileError:
    return CompileError(f"{type(error).__name__}: {str(error)[:MAX_REASON_CHARS]}")


def _load(path: Path) -> Forward:
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch does not compare checksums
                raise CompileError(f"{path} is damaged: {damaged}")
        with _temporary_tmpdir():
            compiled: Forward = torch._inductor.aoti_load_package(str(path))
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
    """Return the directory of the compiled towers, creating it if necessary.

    Raises:
        CompileError: It cannot be created.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise CompileError("no home directory; set TRITONCLIP_CACHE_DIR") from error
    directory = Path(os.environ.get("TRITONCLIP_CACHE_DIR") or home / "tritonclip")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _compile_error(error) from error
    return directory


def fingerprint(directory: Path, options: CompileOptions) -> str:
    """Return a key for weights, code, torch version, CPU and options."""
    files = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["files"]
    sources = {name: files[name]["sha256"] for name in sorted(files) if name.startswith(("vision", "clip_"))}
    machine = [platform.machine(), sorted(cpu_flags()), torch.__version__]
    parts = json.dumps([sources, machine, options])
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
def _check(model: VisionModel, compiled: Forward) -> None:
    """Reject a compiled tower whose embeddings differ from the uncompiled tower's."""
    side = model.grid * model.patch
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator())
    cosine = (model(pixels) * compiled(pixels)).sum(dim=1).min().item()
    if not cosine >= MIN_COSINE:
        raise CompileError(f"its embeddings differ from the uncompiled tower's: cosine {cosine:.6f}")


def main() -> None:
    """Compile as the arguments say; the last line of the standard error is the reason of a failure."""
    os.nice(NICENESS)
    directory, path, options = sys.argv[1:]
    try:
        compile_tower(Path(directory), Path(path), CompileOptions(**json.loads(options)))
    except CompileError as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
