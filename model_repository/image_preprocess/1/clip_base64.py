"""Images as base64, for callers whose JSON or strings cannot hold the bytes of a file.

A text is recognised by its first letters. They are the base64 of the first bytes of an image format, and no
image file begins with them, so no file is taken for a text.
"""

from __future__ import annotations

import binascii
import re

from clip_pillow import ImageError

_START = re.compile(
    rb"data:image/[\w.+-]+;base64,"
    rb"|(?="
    rb"/9j/"  # JPEG: ff d8 ff
    rb"|iVBORw0KGg"  # PNG
    rb"|UklGR"  # WebP: RIFF
    rb"|R0lGODdh|R0lGODlh"  # GIF87a, GIF89a
    rb"|Qk[0-3]"  # BMP: BM
    rb"|SUk[qr]A|TU0AK"  # TIFF and BigTIFF: II and MM
    rb"|UD[EIMQUYc]|UGY"  # PPM: P1 to P7, Pf
    rb"|AAAA[A-Za-z0-9+/]{2}Z0eX"  # AVIF and HEIF: a box of type ftyp
    rb"|AAAADGpQ|/0//U[Q-Za-f]"  # JPEG 2000: a file, a codestream
    rb")"
)
_LINE_ENDS = b"\r\n"


def decoded_text(encoded: bytes) -> bytes | None:
    """Return the file that a base64 text or a data: URI encodes, or None if it is no such text.

    Raises:
        ImageError: It begins like one, but is not valid base64.
    """
    start = _START.match(encoded)
    if start is None:
        return None
    try:
        return binascii.a2b_base64(encoded[start.end() :].translate(None, _LINE_ENDS), strict_mode=True)
    except binascii.Error as error:
        fault = str(error)
    raise ImageError(
        f"begins like an image in base64, but is no valid base64 ({fault}); send standard base64 with its "
        "padding, or the bytes of the file by the binary extension"
    )
