"""Text from outside, such as file names, labels and error texts, as a terminal may show it."""

from __future__ import annotations

import re

from rich.text import Text

from tritonclip._messages.text import printable

# Controls of C0 and C1, line and paragraph separators, and marks that change the direction of what follows.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """Return a text in which Python's escapes replace control characters and undecodable bytes."""
    return _UNSAFE.sub(lambda found: repr(found[0])[1:-1], printable(text))


def plain(text: str, style: str = "") -> Text:
    """Return a text for a console of rich, with its control characters escaped and its markup ignored."""
    return Text(visible(text), style=style)
