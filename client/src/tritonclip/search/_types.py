"""What an index holds, and what a search gives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Kind = Literal["image", "text"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image or a text of an index.

    Attributes:
        id: Made from kind, path and, for a text, the text: the same in every index of the same files.
        kind: `image` or `text`.
        path: Of the image, or of the file that the text stood in; absolute.
        name: Of an image its path below the directory that was indexed; of a text the text.
        sha256: Of the file's content, or of the text; hexadecimal.
    """

    id: str
    kind: Kind
    path: str
    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """How an entry's file was when it was embedded.

    Attributes:
        size: In bytes; 0 for a text.
        mtime_ns: When it was changed, in nanoseconds; 0 where that cannot be relied on, and for a text.
    """

    size: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """An entry as it is kept.

    Attributes:
        vector: float32 [d], unit L2 norm.
    """

    entry: Entry
    stamp: Stamp
    vector: Array


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An entry that was found.

    Attributes:
        score: Cosine with the query, -1 to 1.
    """

    score: float
    entry: Entry


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What an index's vectors were made by; kept in it.

    Attributes:
        sha256: Of the checkpoint's weights; an index never mixes two.
        checkpoint: Its name, for people.
        dim: Values of a vector.
    """

    sha256: str
    checkpoint: str
    dim: int


def entry_id(kind: Kind, path: str, text: str = "") -> str:
    """The id of an entry: 32 hexadecimal digits."""
    return hashlib.blake2b("\0".join((kind, path, text)).encode(), digest_size=16).hexdigest()
