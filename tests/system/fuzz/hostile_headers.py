"""Tiny files with false headers: any width and height, in each format that stores them as plain bytes.

The module decodes and sends nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

EDGES = (0, 1, 2, 255, 9_459, 16_384, 32_768, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Edges around the limits of the decoders' integer types. 9,459 squared is just below the pixel limit."""


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int) -> bytes:
    """Build a one-bit PNG with the data of one row."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    """Build a 24-bit BMP. Pillow reads its edges as signed numbers."""
    header = struct.pack("<IIIHHIIIIII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 64, 0, 0, 54) + header + bytes(64)


def gif(width: int, height: int) -> bytes:
    """Build a GIF whose screen and only frame have this size, 16 bits per edge."""
    edges = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    screen = b"GIF89a" + edges + b"\x80\x00\x00" + bytes(6)
    return screen + b"\x2c" + bytes(4) + edges + b"\x00" + b"\x02\x02\x4c\x01\x00" + b"\x3b"


def tiff(width: int, height: int, compression: int = 1) -> bytes:
    """Build a grey TIFF with one strip."""
    tags = (
        (256, 4, width),
        (257, 4, height),
        (258, 4, 8),
        (259, 4, compression),
        (262, 4, 1),
        (273, 4, 8),
        (277, 4, 1),
        (278, 4, height),
        (279, 4, 64),
    )
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\x00" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(tags)) + entries + bytes(4)


def tiff_deflate(width: int, height: int) -> bytes:
    """Build a TIFF whose strip libtiff decodes."""
    return tiff(width, height, compression=8)


def jpeg2000(width: int, height: int) -> bytes:
    """Build a JPEG2000 codestream with one tile and no data."""
    return jpeg2000_tiled(width, height, max(1, width), max(1, height))


def jpeg2000_tiled(width: int, height: int, tile_width: int = 1, tile_height: int = 1) -> bytes:
    """Build a JPEG2000 codestream with tiles of 1 x 1 pixel by default."""
    size = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, tile_width, tile_height, 0, 0, 1) + bytes(
        (7, 1, 1)
    )
    style = bytes((0, 0, 0, 1, 0, 1, 3, 3, 0, 0))
    quantisation = bytes((0x40, *(0x40, 0x48, 0x48, 0x50)))
    segments = ((0xFF51, size), (0xFF52, style), (0xFF5C, quantisation))
    head = b"".join(struct.pack(">HH", marker, len(body) + 2) + body for marker, body in segments)
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 0, 0, 1)
    return b"\xff\x4f" + head + tile + b"\xff\x93" + bytes(16) + b"\xff\xd9"


def ppm(width: int, height: int) -> bytes:
    """Build a PPM with the data of a few pixels."""
    return b"P6 %d %d 255\n" % (width, height) + bytes(64)


def webp(width: int, height: int) -> bytes:
    """Build an extended WebP whose canvas has this size, 24 bits per edge, without a frame."""
    canvas = bytes((0x02, 0, 0, 0)) + struct.pack("<I", (width - 1) & 0xFFFFFF)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + struct.pack("<I", (height - 1) & 0xFFFFFF)[:3]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    """Build the header of a JPEG, 16 bits per edge, without tables."""
    edges = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    frame = b"\xff\xc0\x00\x0b\x08" + edges + b"\x01\x01\x11\x00"
    return b"\xff\xd8" + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + bytes(32) + b"\xff\xd9"


HEADERS: dict[str, Callable[[int, int], bytes]] = {
    one.__name__: one
    for one in (png, bmp, gif, tiff, tiff_deflate, jpeg2000, jpeg2000_tiled, ppm, webp, jpeg)
}
