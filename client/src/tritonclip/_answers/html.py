"""Answers as HTML for notebooks: tables with thumbnails and bars.

The styles are inline and there is no script, so that a notebook's sanitizer leaves the table as it is.
Colours are translucent or those of the page, so that they suit light and dark themes.
"""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy.typing as npt
from PIL import Image

from tritonclip._images.thumbnails import MEDIA_TYPE, thumbnail_of_file, thumbnail_of_pixels
from tritonclip._images.urls import USER_INFO, is_url
from tritonclip._messages.text import printable

MAX_ROWS = 50
"""Rows of a table; the rest is counted."""
MAX_NAME_CHARS = 120
SIDE_PX, SHOWN_PX = 160, 80
"""Longest side of a thumbnail, for displays with two pixels per point, and its size on the page."""
_LEFT = "text-align:left;vertical-align:middle;padding:4px 12px 4px 0"
_NOTE = "opacity:.7;font-size:90%"


def table(rows: Iterable[Sequence[str]], count: int) -> str:
    """Return the first rows, of cells that are HTML, as a table.

    Args:
        rows: The rows, of which only the first `MAX_ROWS` are taken.
        count: Number of all rows.
    """
    first = itertools.islice(rows, MAX_ROWS)
    shown = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in first)
    return f'<table style="border-collapse:collapse">{shown}</table>{more(count - MAX_ROWS)}'


def picture(image: str | Image.Image | npt.NDArray[Any] | None) -> str:
    """Return the thumbnail of an image file or of pixels as HTML.

    It is empty if there is no such file, for a URL, and for an image that cannot be displayed.
    """
    try:
        if isinstance(image, str):
            content = thumbnail_of_file(image, SIDE_PX) if os.path.isfile(image) else None
        else:
            content = None if image is None else thumbnail_of_pixels(image, SIDE_PX)
    except Exception:  # whatever is wrong with the image, the rest of the answer is displayed
        return ""
    if content is None:
        return ""
    uri = f"data:{MEDIA_TYPE};base64,{base64.b64encode(content).decode()}"
    size = f"max-width:{SHOWN_PX}px;max-height:{SHOWN_PX}px"
    return f'<img alt="" src="{uri}" style="{size}">'


def name(path: str | None) -> str:
    """Return a path, or a URL without its user and query, as HTML; empty for None."""
    if path is None:
        return ""
    url = is_url(path)
    shown = USER_INFO.sub("//", path, count=1).partition("?")[0] if url else printable(path)
    return note(shown if len(shown) <= MAX_NAME_CHARS else f"...{shown[-MAX_NAME_CHARS:]}")


def bars(scored: Sequence[tuple[str, float]], max_bars: int) -> str:
    """Return texts with scores from 0 to 1 as bars."""
    shown = "".join(
        f'<div style="width:20em;max-width:100%;margin:2px 0">{text(label)}'
        f'<span style="float:right;font-variant-numeric:tabular-nums">{score:.1%}</span>'
        f'<div style="clear:both;height:5px;border-radius:3px;background:rgba(128,128,128,.25)">'
        f'<div style="width:{score:.1%};height:5px;border-radius:3px;background:#3b82f6"></div></div></div>'
        for label, score in scored[:max_bars]
    )
    return f"{shown}{more(len(scored) - max_bars)}"


def text(value: str) -> str:
    """Return a text as HTML."""
    return f'<span style="overflow-wrap:anywhere">{escape(printable(value))}</span>'


def note(value: str) -> str:
    """Return a remark as HTML."""
    return f'<div style="{_NOTE};overflow-wrap:anywhere">{escape(value)}</div>' if value else ""


def more(count: int) -> str:
    """Return the number of entries that are not displayed as HTML; empty if it is not positive."""
    return note(f"and {count:,} more") if count > 0 else ""


def _cell(content: str) -> str:
    return f'<td style="{_LEFT}">{content}</td>'
