"""Recognise JPEGs and PNGs that cost no more to decode than their pixels.

Decoders in C read each byte of such a file and write each pixel a bounded number of times, and Pillow parses
little of it in Python. All other files are decoded by worker processes, which can be ended.
"""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import islice
from struct import error as StructError  # noqa: N812 (an exception)
from struct import iter_unpack, unpack_from

MAX_SCANS = 100
"""Limit on the scans of a JPEG, the same as libtiff's.

For a scan of a few bytes, libjpeg makes a pass over the whole image. Encoders write about ten scans.
"""
MAX_SCANNED_PIXELS = 200_000_000
"""Limit on the pixels of a plain JPEG times its scans."""
MAX_SEGMENTS = 256
"""Limit on the segments before the first scan of a plain JPEG, which Pillow parses in Python."""
MAX_CHUNKS = 4096
"""Limit on the chunks of a plain PNG. libpng writes 8 KiB in each."""
MAX_TAGS, MAX_TAG_BYTES = 512, 1 << 20
"""Limits on the first directory of Exif data. Pillow copies the value of each tag, and values may overlap."""

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker in compressed data, other than a restart marker."""
_SCAN = re.compile(rb"\xff\xda")  # faster than bytes.count, because 0xff is frequent
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_SEQUENTIAL = (0xC0, 0xC1)  # baseline and extended, with Huffman coding
_FRAMES = (*_SEQUENTIAL, 0xC2)  # and progressive
_PLAIN_SEGMENTS = frozenset((0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))
_JFIF, _JFIF_BYTES = 0xE0, 16
_BARE_SEGMENTS = frozenset((_JFIF, 0xC4, 0xDB, 0xDD, 0xFE))  # and tables, a restart interval, comments
_WITHOUT_LENGTH = (0x01, 0xD8)
_TYPE_BYTES = (1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)
"""Size of a value by its TIFF type."""


def plain_pixels(encoded: bytes) -> int | None:
    """Return width times height of a plain JPEG or PNG, or None for every other file."""
    try:
        if encoded.startswith(b"\xff\xd8\xff"):
            return _jpeg_pixels(encoded)
        if encoded.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
            return _png_pixels(encoded)
    except (IndexError, StructError):  # the file is truncated
        pass
    return None


def _jpeg_pixels(encoded: bytes) -> int | None:
    place, pixels, has_exif = 2, 0, False
    for _ in range(MAX_SEGMENTS):
        start, marker, size = unpack_from(">BBH", encoded, place)
        if start != 0xFF:
            return None
        if marker == _START_OF_SCAN:
            break
        if marker in _FRAMES and not pixels:
            precision, height, width = unpack_from(">BHH", encoded, place + 4)
            pixels = width * height
            if precision != 8:
                return None
        elif marker not in _PLAIN_SEGMENTS:
            return None
        elif marker == 0xE1 and encoded.startswith(b"Exif\0\0", place + 4):
            if has_exif or not _has_small_directory(encoded[place + 10 : place + 2 + size]):
                return None
            has_exif = True
        elif marker == 0xE2 and encoded.startswith(b"MPF\0", place + 4):
            if not _has_small_directory(encoded[place + 8 : place + 2 + size]):
                return None
        place += 2 + max(size, 2)
    else:
        return None
    most_scans = max(1, MAX_SCANNED_PIXELS // max(pixels, 1))
    if most_scans < MAX_SCANS and has_more_scans(encoded, most_scans):
        return None
    return pixels or None


def bare_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG of one scan that says nothing of its pixels but what libjpeg needs.

    Pillow would find no orientation, no profile and no second picture in it. None for every other file.
    """
    with suppress(IndexError, StructError):  # the file is truncated
        if encoded.startswith(b"\xff\xd8\xff"):
            place = _one_scan_frame(encoded, _BARE_SEGMENTS)
            if place is not None:
                precision, height, width = unpack_from(">BHH", encoded, place + 4)
                return (width, height) if precision == 8 and width and height else None
    return None


def _one_scan_frame(encoded: bytes, accepted: frozenset[int] = _PLAIN_SEGMENTS) -> int | None:
    """Return where the frame header of a JPEG starts that is sequential with all colours in its first scan.

    libjpeg reads no other scan then. None for every other JPEG, and for one with a segment that is not
    accepted, or with a second frame header.
    """
    place, frame = 2, None
    for _ in range(MAX_SEGMENTS):
        start, kind, size = unpack_from(">BBH", encoded, place)
        if start != 0xFF:
            return None
        if kind == _START_OF_SCAN:
            return frame if frame is not None and encoded[place + 4] == encoded[frame + 9] else None
        if kind in _SEQUENTIAL and frame is None:
            frame = place
        elif kind not in accepted or (kind == _JFIF and size < _JFIF_BYTES):  # Pillow may reject a short one
            return None
        place += 2 + max(size, 2)
    return None


def has_more_scans(encoded: bytes, limit: int = MAX_SCANS) -> bool:
    """Return whether a JPEG has more scans, up to its end, than a limit.

    Scans of previews, and what looks like scans in a video behind the image, do not count.
    """
    with suppress(IndexError, StructError):  # the file is truncated
        if _one_scan_frame(encoded) is not None:  # a search through the whole file takes milliseconds
            return False
    if sum(1 for _ in islice(_SCAN.finditer(encoded), limit + 1)) <= limit:
        return False
    place = scans = 0
    for _ in range(MAX_SEGMENTS + 8 * limit):
        match = _MARKER.search(encoded, place)
        if match is None or (marker := encoded[match.start() + 1]) == _END_OF_IMAGE:
            return False
        scans += marker == _START_OF_SCAN
        if scans > limit:
            break
        place = match.end()
        if marker not in _WITHOUT_LENGTH:
            place += int.from_bytes(encoded[place : place + 2], "big")
    return True


def _png_pixels(encoded: bytes) -> int | None:
    width, height = unpack_from(">II", encoded, 16)
    place, has_profile = 8, False
    for _ in range(MAX_CHUNKS):
        size, kind = unpack_from(">I4s", encoded, place)
        if kind == b"IEND":
            return width * height or None
        if kind == b"iCCP":  # Pillow decompresses each
            if has_profile:
                return None
            has_profile = True
        if kind not in (b"IDAT", b"IHDR", b"PLTE") and not _is_plain_chunk(encoded, place + 8, size, kind):
            return None
        place += 12 + size
    return None


def _is_plain_chunk(encoded: bytes, start: int, size: int, kind: bytes) -> bool:
    if kind == b"eXIf":
        return _has_small_directory(encoded[start : start + size])
    if kind == b"iTXt":
        keyword_end = encoded.find(b"\0", start, start + size)
        return keyword_end >= 0 and encoded[keyword_end + 1] == 0  # not compressed
    if kind == b"tEXt":
        return not encoded.startswith(b"Raw profile", start)  # it may hold Exif data, in digits
    return kind not in (b"zTXt", b"acTL")


def _has_small_directory(tiff: bytes) -> bool:
    if not tiff.startswith((b"II*\0", b"MM\0*")):
        return False
    order = "<" if tiff[0] == ord("I") else ">"
    start = unpack_from(f"{order}I", tiff, 4)[0]
    count = unpack_from(f"{order}H", tiff, start)[0]
    if count > MAX_TAGS:
        return False
    entries = iter_unpack(f"{order}HHI4x", tiff[start + 2 : start + 2 + 12 * count])
    sizes = [number * _TYPE_BYTES[kind] for _, kind, number in entries if kind < len(_TYPE_BYTES)]
    return sum(sizes) <= MAX_TAG_BYTES
