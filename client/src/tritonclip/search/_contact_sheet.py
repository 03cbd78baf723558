"""Search results as a contact sheet: one self-contained HTML file without scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from tritonclip._messages.text import printable
from tritonclip.errors import InvalidInputError
from tritonclip.search._thumbnails import MEDIA_TYPE, thumbnail
from tritonclip.search._types import Hit

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ font: 1rem/1.4 system-ui, sans-serif; margin: 1rem; overflow-wrap: anywhere; }}
ol {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)); gap: 1rem;
  padding: 0; list-style: none; }}
li {{ border: 1px solid #8888; border-radius: 8px; padding: .5rem; }}
.frame {{ height: 12rem; display: grid; place-items: center; background: #8882; }}
img {{ max-width: 100%; max-height: 12rem; }}
p {{ margin: .25rem 0 0; font-size: .875rem; }}
.score {{ font-weight: 600; font-variant-numeric: tabular-nums; }}
</style>
<h1>{title}</h1>
"""


def write_contact_sheet(file: Path, title: str, hits: Iterable[Hit], query: bytes | None = None) -> None:
    """Write the results of a search to an HTML file.

    Args:
        file: File to write; an existing file is replaced.
        title: Title of the page: the text or the image that was searched for.
        hits: Results, best first.
        query: Thumbnail of the query image, or None for a text query.

    Raises:
        InvalidInputError: The file cannot be written.
    """
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.writelines(_parts(printable(title), hits, query))
    except OSError as error:
        raise InvalidInputError(f"cannot write {str(file)!r}: {error}") from error


def _parts(title: str, hits: Iterable[Hit], query: bytes | None) -> Iterator[str]:
    yield _HEAD.format(title=escape(title))
    if query is not None:
        yield f"<p>{_img(query, 'query image')}</p>\n"
    yield "<ol>\n"
    for hit in hits:
        yield "<li>"
        if hit.entry.kind == "image":
            yield f'<div class="frame">{_picture(hit)}</div>'
        else:
            yield f"<p>{escape(hit.entry.name)}</p>"
        yield f'<p class="score">{hit.score:.4f}</p><p>{escape(hit.entry.path)}</p></li>\n'
    yield "</ol>\n</html>\n"


def _picture(hit: Hit) -> str:
    try:
        return _img(thumbnail(hit.entry.path), hit.entry.name)
    except InvalidInputError as error:
        return f"<p>{escape(error.message)}</p>"


def _img(content: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:{MEDIA_TYPE};base64,{base64.b64encode(content).decode()}">'
