"""Fuzz `ImageDecoder.decode` in process with atheris: it may raise no exception but ImageError.

`plain_pixels`, which chooses the decoder, may raise no exception at all.

    .venv/bin/python -m tests.system.fuzz.fuzz_images -max_total_time=300

The corpus starts with valid files of every format. The command takes libFuzzer's options and writes its
findings to `build/fuzz/`; pass the path of a finding to run it again. An input that takes more than
`-timeout` seconds or more memory than `-rss_limit_mb` is a finding too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

from tests.helpers.servers import ROOT
from tritonclip_server.paths import MODEL_REPOSITORY
from tritonclip_server.repository.version_code import import_from_versions

FOLDERS = MODEL_REPOSITORY / "image_preprocess" / "1", MODEL_REPOSITORY
INSTRUMENTED = ["PIL", "clip_images", "clip_jpeg", "clip_pillow", "clip_plain", "clip_geometry"]
with atheris.instrument_imports(include=INSTRUMENTED):
    images = import_from_versions("clip_images", *FOLDERS)
    pillow = import_from_versions("clip_pillow", *FOLDERS)
    geometry = import_from_versions("clip_geometry", *FOLDERS)
    plain = import_from_versions("clip_plain", *FOLDERS)

from tests.system.fuzz.hostile_headers import EDGES, HEADERS  # noqa: E402
from tests.system.fuzz.hostile_images import MODES, seeds  # noqa: E402

FINDINGS = ROOT / "build" / "fuzz"
MAX_PIXELS = 1_000_000
"""Small limit, so that the fuzzer tries many files instead of large ones."""

SETTINGS = geometry.ProcessorSettings(224, 3, (224, 224), image_processor=geometry.TORCHVISION)
DECODER = images.ImageDecoder(SETTINGS, tuple(MODES), MAX_PIXELS)


def decode(encoded: bytes) -> None:
    """Decode one input. Any exception but ImageError ends the fuzzer, which writes the input to a file."""
    plain.plain_pixels(encoded)
    try:
        pixels = DECODER.decode(encoded)
    except pillow.ImageError:
        return
    if pixels.shape != (3, 224, 224):
        raise AssertionError(f"decoded to {pixels.shape}")


def write_corpus(directory: Path) -> Path:
    """Write the valid files and the false headers that the fuzzer starts from."""
    directory.mkdir(parents=True, exist_ok=True)
    files = list(seeds().values())
    files += [make(edge, edge) for make in HEADERS.values() for edge in EDGES]
    for number, file in enumerate(files):
        (directory / f"seed-{number}").write_bytes(file)
    return directory


def main() -> None:
    """Run libFuzzer until its options or a finding end it."""
    corpus = write_corpus(FINDINGS / "images")
    files = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=65536", f"-artifact_prefix={FINDINGS}/"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], *([] if files else [str(corpus)])], decode)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
