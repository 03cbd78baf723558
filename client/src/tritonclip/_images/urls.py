"""Helpers that the fetcher and the address guard share: URLs, redirects, error texts, remaining time."""

from __future__ import annotations

import base64
import binascii
import re
import time
import urllib.parse

from tritonclip.errors import InvalidInputError

SHOWN_PATH_CHARS, SHOWN_QUERY_CHARS = 120, 40
MAX_ESCAPES = 10_000  # each takes 250 bytes of memory to decode
BASE64_ESCAPES = {"%2B": "+", "%2b": "+", "%2F": "/", "%2f": "/", "%3D": "=", "%3d": "="}
BLANKS = b" \t\n\r\f\v"
DECODED_AT_ONCE = 1 << 20  # characters of base64; other threads can run in between
USER_INFO = re.compile(r"//([^/?#]*)@")
FETCH_IT_YOURSELF = "or fetch it yourself and pass its bytes"


def is_url(text: str) -> bool:
    """Return True if a string names an image by URL, not by path."""
    return text[:8].lower().startswith(("http://", "https://", "data:"))


def is_data_url(url: str) -> bool:
    """Return True if the URL holds its content itself."""
    return url[:5].lower() == "data:"


def decode_data_url(url: str, name: str, max_bytes: int) -> bytes:
    """Return the content of a data URL (RFC 2397), with or without base64 padding.

    Args:
        url: The data URL.
        name: The image's name in error texts, such as "image 3".
        max_bytes: Limit on the content's size.

    Raises:
        InvalidInputError: The URL is malformed, empty or too large.
    """
    header, comma, payload = url.partition(",")
    shown = f"{name}: {url[:SHOWN_QUERY_CHARS]!r}"
    if not comma:
        raise InvalidInputError(f"{shown} is not a data URL, it has no comma; give data:image/png;base64,...")
    is_base64 = header.replace(" ", "").lower().endswith(";base64")
    if is_base64 and "%" in payload:
        for escape, character in BASE64_ESCAPES.items():
            payload = payload.replace(escape, character)
    if payload.count("%") > MAX_ESCAPES:
        raise InvalidInputError(f"{shown} has over {MAX_ESCAPES} percent-encoded bytes; use base64 instead")
    content = urllib.parse.unquote_to_bytes(payload)
    if is_base64:
        try:
            content = _decode_base64(content.translate(None, BLANKS).rstrip(b"="))
        except binascii.Error as error:
            raise InvalidInputError(f"{shown} is not valid base64 ({error}); encode it again") from error
    if len(content) > max_bytes:
        raise InvalidInputError(f"{shown} {too_large(max_bytes)}")
    if not content:
        raise InvalidInputError(f"{shown} is empty; give the content of an image file")
    return content


def _decode_base64(bare: bytes) -> bytes:
    """Decode base64 without blanks and padding."""
    parts = [bare[start : start + DECODED_AT_ONCE] for start in range(0, len(bare), DECODED_AT_ONCE)]
    return b"".join(base64.b64decode(part + b"=" * (-len(part) % 4), validate=True) for part in parts)


def too_large(max_bytes: int) -> str:
    """Return the error text for an image over the limit."""
    return f"is larger than {max_bytes} bytes (fetch_max_bytes); raise the limit, or send a smaller image"


def authorization(url: str) -> dict[str, str]:
    """Return the header for the user and password in a URL, if there are any."""
    found = USER_INFO.search(url)
    if not found:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(urllib.parse.unquote(found[1]).encode()).decode()}


def follow_redirect(url: str, target: str, auth: dict[str, str], name: str) -> tuple[str, dict[str, str]]:
    """Return the URL and the authorization header of the next request.

    Redirects from https to http are rejected. The password goes to the same host only.

    Raises:
        InvalidInputError: The redirect leaves http and https, or goes from https to http.
    """
    url, before = urllib.parse.urljoin(url, target), urllib.parse.urlsplit(url)
    after = urllib.parse.urlsplit(url)
    if after.scheme not in ("http", "https") or (before.scheme == "https" and after.scheme == "http"):
        raise InvalidInputError(
            f"{name} redirects to {shown_url(url)}, and {after.scheme} is not followed from {before.scheme}; "
            f"give the URL of the image itself, {FETCH_IT_YOURSELF}"
        )
    same = (before.scheme, before.hostname, before.port) == (after.scheme, after.hostname, after.port)
    return url, authorization(url) or (auth if same else {})


def shown_url(url: str) -> str:
    """Return a URL for an error text: shortened, and without user, password and fragment."""
    path, mark, query = USER_INFO.sub("//", url, count=1).partition("#")[0].partition("?")
    return repr(shorten(path, SHOWN_PATH_CHARS) + mark + shorten(query, SHOWN_QUERY_CHARS))


def shorten(text: str, chars: int) -> str:
    """Return at most this many characters of a text, with an ellipsis if some are missing."""
    return text if len(text) <= chars else text[:chars] + "..."


def seconds_left(end: float) -> float:
    """Return the seconds until `end` on the monotonic clock, or raise TimeoutError if it has passed."""
    left_s = end - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
