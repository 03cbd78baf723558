"""Valid image files of a few bytes to a few megabytes that cost much more than a photograph to decode."""

from __future__ import annotations

import struct
from collections.abc import Callable

from PIL import Image

from tests.helpers.pictures import encode

SHORT, LONG = 3, 4
"""Types of TIFF fields."""


def rle_bitmap() -> bytes:
    """Write a bitmap of 399,000 x 224 pixels in run-length encoding whose rows end after one pixel."""
    data = b"\x01\x00\x00\x00" * 224 + b"\x00\x01"
    offset = 14 + 40 + 1024
    head = struct.pack("<IiiHHIIiiII", 40, 399_000, 224, 1, 8, 1, len(data), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + head + bytes(1024) + data


def empty_jpeg2000() -> bytes:
    """Write 9,400 x 9,400 pixels, most of which have no data: a header of 64 x 64 with other sizes."""
    data = bytearray(encode(Image.new("RGB", (64, 64)), "JPEG2000", no_jp2=True))
    sizes = data.index(b"\xff\x51") + 6
    for field in (sizes, sizes + 16):  # of the image, and of its tiles
        struct.pack_into(">II", data, field, 9400, 9400)
    return bytes(data)


def flat_webp() -> bytes:
    """Write 16,383 x 5,400 black pixels: five Huffman codes of one symbol each, and no pixel data."""
    bits = (16_383 - 1) | (5_400 - 1) << 14
    codes = int("1000" * 5, 2)
    value = bits | int(f"{codes:020b}"[::-1], 2) << (32 + 3)
    payload = b"\x2f" + value.to_bytes(8, "little")
    payload += b"\x00" * (len(payload) % 2)
    chunk = b"VP8L" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def commented_ppm() -> bytes:
    """Write three million lines of comments in front of one pixel."""
    return b"P6\n" + b"#\n" * 3_000_000 + b"1 1 255\n\x00\x00\x00"


def tiff_of_strips() -> bytes:
    """Write a TIFF of 4 million rows, each a strip of its own, whose offsets and sizes share one array."""
    strips = 4_000_000
    fields = [
        (256, LONG, 1, 8),
        (257, LONG, 1, strips),
        (258, SHORT, 1, 8),
        (259, SHORT, 1, 1),
        (262, SHORT, 1, 1),
        (273, SHORT, strips, 0),
        (278, LONG, 1, 1),
        (279, SHORT, strips, 0),
    ]
    array = 8 + 2 + 12 * len(fields) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, value if count == 1 else array)
        for tag, kind, count, value in fields
    )
    head = b"II*\x00" + struct.pack("<I", 8)
    return head + struct.pack("<H", len(fields)) + entries + bytes(4) + struct.pack("<H", 8) * strips


def jpeg_of_exif() -> bytes:
    """Write a JPEG with 960 Exif segments of 64 kB."""
    plain = encode(Image.new("RGB", (8, 8)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 65_000) + b"Exif\x00\x00" + bytes(65_000 - 8)
    return plain[:2] + segment * 960 + plain[2:]


EXPENSIVE: dict[str, Callable[[], bytes]] = {
    one.__name__: one
    for one in (rle_bitmap, empty_jpeg2000, flat_webp, commented_ppm, tiff_of_strips, jpeg_of_exif)
}
