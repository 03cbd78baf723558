"""Fuzzes `ImageDecoder.decode` in process with atheris: only ImageError may come out of it.

    .venv/bin/python -m tests.system.fuzz.fuzz_images -max_total_time=300

Starts from valid files of every format; takes libFuzzer's options. What it finds lies in `build/fuzz/`; a
file found is run again by naming it. Inputs that take more than `-timeout` seconds, and memory beyond
`-rss_limit_mb`, count as findings too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

from tests.helpers.servers import ROOT
from tritonclip_server.paths import MODEL_REPOSITORY
from tritonclip_server.repository.version_code import import_from_versions

with atheris.instrument_imports(include=["PIL", "clip_images", "clip_geometry"]):
    images = import_from_versions(
        "clip_images", MODEL_REPOSITORY / "image_preprocess" / "1", MODEL_REPOSITORY
    )

from tests.system.fuzz.hostile_headers import EDGES, HEADERS  # noqa: E402
from tests.system.fuzz.hostile_images import MODES, seeds  # noqa: E402

FOUND = ROOT / "build" / "fuzz"
MAX_PIXELS = 1_000_000
"""Small, so that the fuzzer's time goes into the decoders' code and not into large images."""

DECODER = images.ImageDecoder(images.ProcessorSettings(224, 3, (224, 224)), tuple(MODES), MAX_PIXELS)


def decode(encoded: bytes) -> None:
    """Decodes one input; any exception but ImageError ends the fuzzer with the input in a file."""
    try:
        pixels = DECODER.decode(encoded)
    except images.ImageError:
        return
    if pixels.shape != (3, 224, 224):
        raise AssertionError(f"decoded to {pixels.shape}")


def write_corpus(directory: Path) -> Path:
    """Writes the valid files and the lying headers where the fuzzer starts from."""
    directory.mkdir(parents=True, exist_ok=True)
    files = list(seeds().values())
    files += [make(edge, edge) for make in HEADERS.values() for edge in EDGES]
    for number, file in enumerate(files):
        (directory / f"seed-{number}").write_bytes(file)
    return directory


def main() -> None:
    """Runs libFuzzer until its options or a finding end it."""
    corpus = write_corpus(FOUND / "images")
    files = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=65536", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], *([] if files else [str(corpus)])], decode)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
