"""More than a hundred small files that honest tools write, and that test every branch of a decoder.

Files that Pillow cannot write are built here from their specifications.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np
from PIL import Image, ImageCms
from pillow_heif import HeifFile, register_heif_opener

from tests.helpers.pictures import EXIF_ORIENTATION, encode, noise

Image.init()  # so that Pillow asks its own AVIF plugin first: an AVIF file may begin like a HEIC file
register_heif_opener()

WIDTH, HEIGHT = 52, 38
XMP_TURNED = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
SHORT, LONG = 3, 4
"""Types of TIFF fields."""


def picture(mode: str = "RGB") -> Image.Image:
    """Draw a picture in any mode."""
    image = noise(WIDTH, HEIGHT, seed=5)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("I", "F", "P", "1", "L", "CMYK", "YCbCr", "LAB"):
        return image.convert("L").convert(mode) if mode in ("I", "F") else image.convert(mode)
    if "A" in mode:
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def exif(orientation: int = 1, thumbnail: bytes = b"") -> Image.Exif:
    """Return Exif data with an orientation, the usual tags, and a preview."""
    data = Image.Exif()
    data[EXIF_ORIENTATION] = orientation
    data[0x010F], data[0x0110] = "Maker", "Model"
    data.get_ifd(0x8769).update({0x829A: (1, 60), 0x9003: "2026:11:01 12:00:00", 0x927C: b"note" * 500})
    if thumbnail:
        data.get_ifd(1).update({0x0201: 0, 0x0202: len(thumbnail)})
    return data


def _profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def motion_photo() -> bytes:
    """Return a JPEG followed by a video of 8 MB, as phones write it; the video looks like 120 scans."""
    still = encode(picture(), "JPEG", exif=exif(6))
    video = struct.pack(">I4s4sI", 16, b"ftyp", b"mp42", 0) + np.random.default_rng(0).bytes(8 << 20)
    assert video.count(b"\xff\xda") > 100
    return still + video


def _jpeg_pair(**options: object) -> bytes:
    return encode(picture(), "MPO", save_all=True, append_images=[picture().rotate(180)], **options)


def jpeg_with_preview() -> bytes:
    """Return a JPEG whose Exif data hold a smaller JPEG."""
    preview = encode(picture().resize((16, 12)), "JPEG")
    start = b"Exif\0\0MM\0*" + struct.pack(">I", 8)
    directory = struct.pack(">HHHII", 1, 0x0112, SHORT, 1, 3 << 16) + struct.pack(">I", 26)
    second = struct.pack(">HHHIIHHIII", 2, 0x0201, LONG, 1, 56, 0x0202, LONG, 1, len(preview), 0)
    body = start + directory + second + preview
    plain = encode(picture(), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


def insert_segment(file: bytes, marker: int, body: bytes) -> bytes:
    """Insert a segment at the start of a JPEG."""
    return file[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + file[2:]


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """Build a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def insert_chunk(file: bytes, *chunks: bytes) -> bytes:
    """Insert chunks behind the header of a PNG."""
    return file[:33] + b"".join(chunks) + file[33:]


def _rows(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def raw_png(
    pixels: np.ndarray, depth: int, colour: int, *, interlaced: bool = False, pieces: int = 1
) -> bytes:
    """Build a PNG from [height, width, channels] without filters; Pillow writes no interlaced or 48-bit ones.

    Args:
        pixels: uint8, or big-endian uint16 for a depth of 16.
        depth: Bits per channel, 8 or 16.
        colour: Colour type of the format.
        interlaced: Write the seven passes of Adam7.
        pieces: Chunks of compressed data.
    """
    height, width = pixels.shape[:2]
    passes = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    parts = [pixels[y::down, x::right] for y, x, down, right in passes] if interlaced else [pixels]
    data = zlib.compress(b"".join(_rows(part) for part in parts if part.size))
    step = max(1, len(data) // pieces)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = [chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(body) + chunk(b"IEND")


def _channels(mode: str, depth: int = 8) -> np.ndarray:
    pixels = np.asarray(picture(mode)).reshape(HEIGHT, WIDTH, -1)
    return (pixels.astype(np.uint16) * 257).astype(">u2") if depth == 16 else pixels


def _png_with_digits() -> bytes:
    body = exif(6).tobytes()
    text = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(body), body.hex().encode())
    return insert_chunk(encode(picture(), "PNG"), chunk(b"tEXt", text))


def _long_text() -> bytes:
    text = b"Comment\0\0" + zlib.compress(b"a long comment " * 2000)
    return insert_chunk(encode(picture(), "PNG"), chunk(b"zTXt", text))


def bitmap(rows: bytes, bits: int, compression: int, *, palette: bool = True, down: bool = False) -> bytes:
    """Build a BMP from its data; `down` writes the top row first."""
    colours = (
        b"".join(bytes((value, value // 2, 255 - value, 0)) for value in range(1 << bits)) if palette else b""
    )
    offset = 54 + len(colours)
    height = -HEIGHT if down else HEIGHT
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset) + info + colours + rows


def _run_lengths(four_bits: bool) -> bytes:
    """Encode a BMP by runs, literal pixels, a skip, and rows that end early."""
    grey = np.asarray(picture("L"))
    data = bytearray()
    for row in grey[::-1]:
        values = row // 16 * (17 if four_bits else 1)
        for value in values[:20]:
            data += bytes((2, value))
        data += bytes((0, 4)) + (bytes((0x12, 0x34)) if four_bits else bytes((1, 2, 3, 4)))
        data += bytes((0, 2, 3, 0)) if row[0] % 2 else b""
        data += b"\0\0"
    return bitmap(bytes(data) + b"\0\1", 4 if four_bits else 8, 2 if four_bits else 1)


def _bitmap565() -> bytes:
    rgb = np.asarray(picture()).astype(np.uint16)
    values = (rgb[..., 0] >> 3) << 11 | (rgb[..., 1] >> 2) << 5 | rgb[..., 2] >> 3
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    rows = values[::-1].astype("<u2").tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 3, len(rows), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 66 + len(rows), 0, 0, 66) + info + masks + rows


def tiff(
    pixels: np.ndarray, *, order: str = "<", tile: int = 0, rows: int = 0, planar: bool = False, turn: int = 1
) -> bytes:
    """Build an uncompressed RGB TIFF: in either byte order, of tiles, strips or planes."""
    height, width = pixels.shape[:2]
    planes = [pixels[..., band, None] for band in range(3)] if planar else [pixels]
    parts: list[bytes] = []
    for plane in planes:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
            for y in range(0, height, tile):
                parts += [padded[y : y + tile, x : x + tile].tobytes() for x in range(0, width, tile)]
        else:
            step = rows or height
            parts += [plane[y : y + step].tobytes() for y in range(0, height, step)]
    fields = {256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [8, 8, 8]), 259: (SHORT, [1])}
    fields |= {262: (SHORT, [2]), 274: (SHORT, [turn]), 277: (SHORT, [3]), 284: (SHORT, [1 + planar])}
    where, sizes = (324, 325) if tile else (273, 279)
    fields |= {322: (SHORT, [tile]), 323: (SHORT, [tile])} if tile else {278: (LONG, [rows or height])}
    fields |= {where: (LONG, [0] * len(parts)), sizes: (LONG, list(map(len, parts)))}
    head = 8 + 2 + 12 * len(fields) + 4
    values = {
        tag: struct.pack(f"{order}{len(v)}{'HI'[kind - SHORT]}", *v) for tag, (kind, v) in fields.items()
    }
    outside = sum(len(value) for value in values.values() if len(value) > 4)
    places = np.cumsum([head + outside, *map(len, parts)])[:-1].tolist()
    values[where] = struct.pack(f"{order}{len(parts)}I", *places)
    entries, tail = b"", b""
    for tag in sorted(fields):
        kind, value = fields[tag][0], values[tag]
        entries += struct.pack(f"{order}HHI", tag, kind, len(fields[tag][1]))
        if len(value) > 4:
            entries += struct.pack(f"{order}I", head + len(tail))
            tail += value
        else:
            entries += value.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(fields)) + entries + bytes(4) + tail + b"".join(parts)


def _plain_ppm(kind: str, mode: str, top: int) -> bytes:
    values = np.asarray(picture(mode)).astype(int).ravel()
    if kind == "P1":
        return b"P1\n# comment\n%d %d\n" % (WIDTH, HEIGHT) + b" ".join(b"01"[v : v + 1] for v in values)
    text = b" ".join(b"%d" % (value * top // 255) for value in values)
    return b"%s\n# comment\n%d %d\n%d\n" % (kind.encode(), WIDTH, HEIGHT, top) + text + b"\n"


def _raw_ppm(kind: str, mode: str, top: int) -> bytes:
    values = np.asarray(picture(mode)).astype(int) * top // 255
    data = values.astype(np.uint8 if top < 256 else ">u2").tobytes()
    return b"%s %d %d %d\n" % (kind.encode(), WIDTH, HEIGHT, top) + data


def _frames(kind: str, mode: str = "RGB", **options: object) -> bytes:
    others = [picture(mode).transpose(Image.Transpose.ROTATE_180) for _ in range(2)]
    return encode(picture(mode), kind, save_all=True, append_images=others, **options)


def _heif_of_10_bits(mode: str = "RGB") -> bytes:
    pixels = np.asarray(picture(mode)).astype(np.uint16) * 257
    heif = HeifFile()
    heif.add_frombytes(f"{mode};16", (WIDTH, HEIGHT), pixels.tobytes())
    file = io.BytesIO()
    heif.save(file)
    return file.getvalue()


def heif_of_size(width: int, height: int) -> bytes:
    """Return a HEIC file of a few hundred bytes that claims a size."""
    file = bytearray(encode(Image.new("RGB", (64, 64), (200, 20, 90)), "HEIF"))
    struct.pack_into(">II", file, file.index(b"ispe") + 8, width, height)
    return bytes(file)


def _jpegs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    def jpeg(mode: str = "RGB", **options: object) -> Callable[[], bytes]:
        return lambda: encode(picture(mode), "JPEG", **options)

    for quality in (1, 100):
        yield f"quality {quality}", jpeg(quality=quality)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        yield subsampling, jpeg(subsampling=subsampling)
    for mode in ("L", "RGB", "CMYK"):
        yield f"progressive {mode}", jpeg(mode, progressive=True)
        yield f"restart markers {mode}", jpeg(mode, restart_marker_rows=1)
    yield "optimised", jpeg(optimize=True)
    yield "stored as RGB", jpeg(keep_rgb=True)
    yield "profile", lambda: encode(picture(), "JPEG", icc_profile=_profile())
    yield "profile in 4 segments", lambda: encode(picture(), "JPEG", icc_profile=bytes(200_000))
    yield "comment", jpeg(comment=b"made by hand", dpi=(300, 300))
    yield "Exif with a maker note", lambda: encode(picture(), "JPEG", exif=exif(8))
    yield "progressive, turned", lambda: encode(picture(), "JPEG", exif=exif(5), progressive=True)
    yield "CMYK, turned", lambda: encode(picture("CMYK"), "JPEG", exif=exif(3))
    yield "turned by XMP", jpeg(xmp=XMP_TURNED)
    yield "preview", jpeg_with_preview
    yield "pair", _jpeg_pair
    yield "turned pair", lambda: _jpeg_pair(exif=exif(6))
    yield "motion photo", motion_photo
    yield "bytes behind it", lambda: encode(picture(), "JPEG") + b"\0" * 100
    yield "300 comments", lambda: _commented_jpeg(300)
    yield (
        "padding before a marker",
        lambda: encode(picture(), "JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
    )
    yield "two Exif segments", lambda: _split_exif()


def _commented_jpeg(count: int) -> bytes:
    file = encode(picture(), "JPEG")
    return file[:2] + (b"\xff\xfe\x00\x06note" * count) + file[2:]


def _split_exif() -> bytes:
    body = exif(6).tobytes()
    first, second = body[:900], b"Exif\0\0" + body[900:]
    return insert_segment(insert_segment(encode(picture(), "JPEG"), 0xE1, second), 0xE1, first)


def _pngs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield mode, lambda mode=mode: encode(picture(mode), "PNG")  # type: ignore[misc]
    for bits in (1, 2, 4):
        yield f"{bits} bits", lambda bits=bits: encode(picture("P").quantize(1 << bits), "PNG", bits=bits)  # type: ignore[misc]
    for mode, colour in (("L", 0), ("RGB", 2), ("LA", 4), ("RGBA", 6)):
        for depth in (8, 16):
            for interlaced in (False, True):
                make = partial(raw_png, depth=depth, colour=colour, interlaced=interlaced)
                name = f"{mode} of {depth} bits{', interlaced' if interlaced else ''}"
                yield name, lambda make=make, mode=mode, depth=depth: make(_channels(mode, depth))  # type: ignore[misc]
    yield "100 pieces", lambda: raw_png(_channels("RGB"), 8, 2, pieces=100)
    yield "5000 pieces", lambda: raw_png(np.tile(_channels("RGB"), (4, 1, 1)), 8, 2, pieces=5000)
    yield "profile", lambda: encode(picture(), "PNG", icc_profile=_profile())
    yield "turned", lambda: encode(picture(), "PNG", exif=exif(6))
    yield "turned, Exif in digits", _png_with_digits
    yield "turned by XMP", lambda: _png_text(b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_TURNED)
    yield "compressed XMP", lambda: _png_text(b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP_TURNED))
    yield "compressed text", _long_text
    yield "frames", lambda: _frames("PNG")
    yield "bytes behind it", lambda: encode(picture(), "PNG") + b"\0" * 100


def _png_text(body: bytes) -> bytes:
    return insert_chunk(encode(picture(), "PNG"), chunk(b"iTXt", body))


def _others() -> Iterator[tuple[str, Callable[[], bytes]]]:
    def saved(kind: str, mode: str = "RGB", **options: object) -> Callable[[], bytes]:
        return lambda: encode(picture(mode), kind, **options)

    yield "WEBP lossy with alpha", saved("WEBP", "RGBA", quality=50)
    yield "WEBP lossless", saved("WEBP", lossless=True)
    yield "WEBP lossless with alpha", saved("WEBP", "RGBA", lossless=True, exact=True)
    yield "WEBP grey", saved("WEBP", "L")
    yield "WEBP turned", lambda: encode(picture(), "WEBP", exif=exif(6))
    yield "WEBP profile", lambda: encode(picture(), "WEBP", icc_profile=_profile(), xmp=XMP_TURNED)
    yield "WEBP frames", lambda: _frames("WEBP")
    yield "GIF grey", saved("GIF", "L")
    yield "GIF black and white", saved("GIF", "1")
    yield "GIF not interlaced", saved("GIF", interlace=0)
    yield "GIF transparent", saved("GIF", "P", transparency=7)
    yield "GIF comment", saved("GIF", comment=b"made by hand" * 30)
    yield "GIF frames", lambda: _frames("GIF", duration=40, loop=0)
    for mode in ("1", "L", "P", "RGBA"):
        yield f"BMP {mode}", saved("BMP", mode)
    yield "BMP runs of 8 bits", lambda: _run_lengths(False)
    yield "BMP runs of 4 bits", lambda: _run_lengths(True)
    yield "BMP of 16 bits", _bitmap565
    yield "BMP top row first", lambda: bitmap(np.asarray(picture("L")).tobytes(), 8, 0, down=True)
    for mode in ("1", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"):
        yield f"TIFF {mode}", saved("TIFF", mode)
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        yield f"TIFF {packing}", saved("TIFF", compression=packing)
    for packing in ("group3", "group4", "tiff_ccitt"):
        yield f"TIFF {packing}", saved("TIFF", "1", compression=packing)
    yield "TIFF predictor", saved("TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    yield "TIFF BigTIFF", saved("TIFF", big_tiff=True)
    yield "TIFF profile", lambda: encode(picture(), "TIFF", icc_profile=_profile(), dpi=(300, 300))
    yield "TIFF frames", lambda: _frames("TIFF")
    yield "TIFF big-endian", lambda: tiff(_channels("RGB"), order=">")
    yield "TIFF tiles", lambda: tiff(_channels("RGB"), tile=16)
    yield "TIFF tiles of planes", lambda: tiff(_channels("RGB"), tile=16, planar=True)
    yield "TIFF strips of a row", lambda: tiff(_channels("RGB"), rows=1)
    yield "TIFF turned", lambda: tiff(_channels("RGB"), turn=6)
    for kind, mode, top in (
        ("P1", "1", 1),
        ("P2", "L", 255),
        ("P2", "L", 1023),
        ("P3", "RGB", 255),
        ("P3", "RGB", 15),
    ):
        yield f"PPM {kind} to {top}", partial(_plain_ppm, kind, mode, top)
    for kind, mode, top in (
        ("P5", "L", 255),
        ("P5", "L", 1023),
        ("P5", "L", 65535),
        ("P6", "RGB", 100),
        ("P6", "RGB", 65535),
    ):
        yield f"PPM {kind} to {top}", partial(_raw_ppm, kind, mode, top)
    yield "PPM P4", saved("PPM", "1")
    yield "PPM floats", saved("PPM", "F")
    yield "AVIF", saved("AVIF")
    yield "AVIF with alpha", saved("AVIF", "RGBA")
    yield "AVIF 4:4:4", saved("AVIF", subsampling="4:4:4", quality=100)
    yield "AVIF turned", lambda: encode(picture(), "AVIF", exif=exif(6))
    yield "AVIF frames", lambda: _frames("AVIF")
    for mode in ("L", "LA", "RGB", "RGBA", "RGBa", "I;16"):
        yield f"HEIF {mode}", saved("HEIF", mode)
    for mode in ("RGB", "RGBA"):
        yield f"HEIF {mode} of 10 bits", partial(_heif_of_10_bits, mode)
    for turn in (2, 6):
        yield f"HEIF turned {turn}", lambda turn=turn: encode(picture(), "HEIF", exif=exif(turn).tobytes())  # type: ignore[misc]
    yield "HEIF lossless", saved("HEIF", quality=-1, chroma="444")
    yield "HEIF tiles", lambda: encode(picture().resize((300, 200)), "HEIF", tile_size=64)
    yield "HEIF profile", lambda: encode(picture(), "HEIF", icc_profile=_profile())
    yield "HEIF several pictures", lambda: _frames("HEIF")
    yield "HEIF second picture first", lambda: _frames("HEIF", primary_index=1)
    yield "HEIF general brand", lambda: encode(picture(), "HEIF").replace(b"ftypheic", b"ftypmif1", 1)
    yield "AVIF general brand", lambda: encode(picture(), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    for mode in ("L", "LA", "RGB", "RGBA"):
        yield f"JPEG2000 {mode}", saved("JPEG2000", mode)
    yield "JPEG2000 without a box", saved("JPEG2000", no_jp2=True)
    yield "JPEG2000 tiles", saved("JPEG2000", tile_size=(16, 16))
    yield "JPEG2000 lossy", saved("JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[20, 5])
    yield "JPEG2000 16 bits", saved("JPEG2000", "I;16")


ODD_PICTURES: dict[str, Callable[[], bytes]] = {
    **{f"JPEG {name}": make for name, make in _jpegs()},
    **{f"PNG {name}": make for name, make in _pngs()},
    **dict(_others()),
}
"""Functions that build the files, by name."""


@cache
def odd_picture(name: str) -> bytes:
    """Return one of the files."""
    return ODD_PICTURES[name]()
