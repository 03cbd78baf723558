"""Hostile images as recipes: a failure prints the recipe in one line, and the same file can be built again.

A recipe is a valid file of any format and mode with some edits, a file with a false header, or noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.odd_pictures import ODD_PICTURES, chunk, insert_chunk, odd_picture
from tests.helpers.pictures import encode, turned
from tests.system.fuzz.hostile_headers import EDGES, HEADERS

WIDTH, HEIGHT = 48, 40
MODES = {
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I", "F", "I;16"),
    "PPM": ("1", "L", "RGB", "I"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
}
ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")
NUMBERS = (
    b"\x00" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\x00\x00\x00",
    b"\x00\x00\x00\x80",
)


def picture(mode: str, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Draw noise on a gradient, in any mode."""
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    ramp = np.linspace(0, 200, width)[None, :, None]
    image = Image.fromarray((noise + ramp).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.arange(width * height, dtype=np.uint16).reshape(height, width))
    if mode == "I":
        return image.convert("L").convert("I")
    return image.convert("RGB").convert(mode)


@cache
def seeds() -> dict[str, bytes]:
    """Return valid files by name: every accepted format, in every mode and variant that tools write."""
    files = {f"{kind} {mode}": encode(picture(mode), kind) for kind, modes in MODES.items() for mode in modes}
    frames = [picture("RGB").rotate(turn) for turn in (0, 90, 180)]
    for kind in ANIMATED:
        files[f"{kind} animated"] = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    files |= {
        f"odd {name}": odd_picture(name) for name in ODD_PICTURES if name != "JPEG motion photo"
    }  # 8 MB
    return files | {
        "JPEG progressive": encode(picture("RGB"), "JPEG", progressive=True),
        "JPEG turned": turned(picture("RGB"), 6),
        "PNG transparent": encode(picture("P"), "PNG", transparency=3),
        "WEBP lossless": encode(picture("RGBA"), "WEBP", lossless=True),
        "TIFF deflate": encode(picture("RGB"), "TIFF", compression="tiff_adobe_deflate"),
        "TIFF lzw": encode(picture("RGB"), "TIFF", compression="tiff_lzw"),
        "TIFF jpeg": encode(picture("RGB"), "TIFF", compression="jpeg"),
        "TIFF group4": encode(picture("1"), "TIFF", compression="group4"),
        "PNG 1 x 1": encode(picture("L", 1, 1), "PNG"),
        "PNG 2000 x 1": encode(picture("L", 2000, 1), "PNG"),
    }


@cache
def bombs() -> dict[str, bytes]:
    """Return small files that decode to large images or decode slowly."""
    progressive = encode(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    flat = Image.new("1", (10_000, 10_000))
    return {
        "PNG of 100 megapixels": encode(flat, "PNG"),
        "TIFF of 100 megapixels": encode(flat, "TIFF", compression="group4"),
        "GIF of 100 megapixels": encode(Image.new("L", (10_000, 10_000)), "GIF"),
        "PNG of 20000 x 1": encode(Image.new("1", (20_000, 1)), "PNG"),
        "PNG of 1000000 x 1": encode(Image.new("1", (1_000_000, 1)), "PNG"),
        "PNG of 64 megapixels": encode(Image.new("1", (8_000, 8_000)), "PNG"),
        "PNG of 64 megapixels, cut": encode(Image.new("1", (8_000, 8_000)), "PNG")[:-300],
        "PNG of 300000 chunks": insert_chunk(encode(picture("L"), "PNG"), chunk(b"teSt") * 300_000),
        "JPEG of 3 MB of padding": encode(picture("L"), "JPEG").replace(
            b"\xff\xdb", b"\xff" * 3_000_000 + b"\xdb"
        ),
        "PPM of comments": b"P6\n" + b"#\n" * 100_000 + b"1 1 255\n\x00\x00\x00",
        "JPEG of 5000 scans": progressive[:-2] + last_scan * 5000 + b"\xff\xd9",
    }


@dataclass(frozen=True)
class Edit:
    """One change of a file. Positions are fractions of its length, so that they fit any file."""

    kind: str
    at: float
    value: int = 0

    def apply(self, file: bytes) -> bytes:
        """Return the changed file."""
        place = int(self.at * len(file))
        if self.kind == "truncate":
            return file[:place]
        if self.kind == "cut":
            return file[:place] + file[place + 1 + self.value :]
        if self.kind == "flip":
            if not file:
                return file
            place = min(place, len(file) - 1)
            return file[:place] + bytes((file[place] ^ (1 << self.value % 8),)) + file[place + 1 :]
        if self.kind == "number":
            return file[:place] + NUMBERS[self.value % len(NUMBERS)] + file[place + 4 :]
        if self.kind == "repeat":
            return file[:place] + file[place : place + 64] * (self.value + 2) + file[place + 64 :]
        if self.kind == "splice":
            other = list(seeds().values())[self.value % len(seeds())]
            return file[:place] + other[int(self.at * len(other)) :]
        return file + np.random.default_rng(self.value).bytes(1 + int(self.at * 4096))


EDITS = ("truncate", "flip", "number", "cut", "repeat", "splice", "junk")


@dataclass(frozen=True)
class Recipe:
    """Instructions for a file: a valid file (`seed`), a header (`seed`, `edges`) or noise, then edits."""

    seed: str
    edits: tuple[Edit, ...] = ()
    edges: tuple[int, int] = (0, 0)

    def build(self) -> bytes:
        """Build the file."""
        if self.seed in HEADERS:
            file = HEADERS[self.seed](*self.edges)
        elif self.seed == "noise":
            file = np.random.default_rng(self.edges[0]).bytes(self.edges[1])
        else:
            file = seeds().get(self.seed) or bombs()[self.seed]
        for edit in self.edits:
            file = edit.apply(file)
        return file


def _edits(least: int) -> st.SearchStrategy[tuple[Edit, ...]]:
    head = st.floats(0, 0.1)  # the part with the headers
    at = st.one_of(head, st.floats(0, 1))
    edit = st.builds(Edit, st.sampled_from(EDITS), at, st.integers(0, 255))
    return st.lists(edit, min_size=least, max_size=6).map(tuple)


def edited_files() -> st.SearchStrategy[Recipe]:
    """Generate damaged files of every format."""
    return st.builds(Recipe, st.sampled_from(sorted(seeds())), _edits(1))


def false_headers() -> st.SearchStrategy[Recipe]:
    """Generate tiny files that claim any size, some of them with edits."""
    edge = st.sampled_from(EDGES)
    return st.builds(Recipe, st.sampled_from(sorted(HEADERS)), _edits(0), st.tuples(edge, edge))


def noise() -> st.SearchStrategy[Recipe]:
    """Generate random bytes, including the empty file."""
    sizes = st.tuples(st.integers(0, 2**31), st.integers(0, 4096))
    return st.builds(Recipe, st.just("noise"), st.just(()), sizes)


def recipes() -> st.SearchStrategy[Recipe]:
    """Generate files of all kinds. Bombs are rare, because one takes as long as hundreds of other files."""
    common = [edited_files(), edited_files(), edited_files(), false_headers(), noise()]
    rare = st.builds(Recipe, st.sampled_from(sorted(bombs())))
    return st.integers(0, 399).flatmap(lambda draw: rare if draw == 399 else st.one_of(common))
