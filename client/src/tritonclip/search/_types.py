"""Value types of the search package: the entries of an index, its stored rows, and search results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from tritonclip._answers import html
from tritonclip._answers.frames import Column, Tabular
from tritonclip._messages.text import printable
from tritonclip._messages.text import shown as quoted
from tritonclip.errors import InvalidInputError

Array = npt.NDArray[np.float32]
Kind = Literal["image", "text"]
FORMAT = 2
"""Format of an index, stored with its identity. Format 1 has no `Identity.identity`."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image or a text in an index.

    Attributes:
        id: Hash of the kind, the path and, for a text, the text. Every index of the same files uses the same
            IDs.
        kind: `image` or `text`.
        path: Absolute path of the image, or of the file that contains the text.
        name: For an image, its path relative to the indexed directory; for a text, the text itself.
        sha256: Hexadecimal SHA-256 of the file's content, or of the text.
    """

    id: str
    kind: Kind
    path: str
    name: str
    sha256: str

    def __repr__(self) -> str:
        """Return the kind and the name."""
        return f"<Entry {self.kind} {quoted(self.name)}>"


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Size and modification time of a file at the time when it was embedded.

    Attributes:
        size: In bytes; 0 for a text.
        mtime_ns: Modification time in nanoseconds. 0 for a text, and for a file that was still changing.
    """

    size: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """An entry as a store keeps it.

    Attributes:
        vector: float32 [d], unit L2 norm.
    """

    entry: Entry
    stamp: Stamp
    vector: Array = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A search result.

    Attributes:
        score: Cosine similarity to the query, -1 to 1.
    """

    score: float
    entry: Entry

    def __repr__(self) -> str:
        """Return the score, the kind and the name."""
        return f"<Hit {self.score:.4f} {self.entry.kind} {quoted(self.entry.name)}>"


class Hits(Tabular, list[Hit]):
    """The results of a search, best first: a list of `Hit`. A notebook displays it with thumbnails.

    Columns of a data frame: `score` (float64), `kind`, `name`, `path` and `id` (strings); see `Entry`.
    """

    __slots__ = ()

    @overload
    def __getitem__(self, place: SupportsIndex) -> Hit: ...

    @overload
    def __getitem__(self, place: slice) -> Hits: ...

    def __getitem__(self, place: SupportsIndex | slice) -> Hit | Hits:
        """Return a result, or the results of a slice."""
        if isinstance(place, slice):
            return Hits(super().__getitem__(place))
        return super().__getitem__(place)

    def _columns(self) -> dict[str, Column]:
        texts = {
            name: Column("string", [printable(getattr(hit.entry, name)) for hit in self])
            for name in ("kind", "name", "path", "id")
        }
        return {"score": Column("float64", [hit.score for hit in self]), **texts}

    def _repr_html_(self) -> str:
        """Return a table for a notebook: thumbnail or text, and score."""
        return html.table((_row(hit) for hit in self), len(self))


def _row(hit: Hit) -> tuple[str, str]:
    entry, score = hit.entry, html.note(f"cosine {hit.score:.4f}")
    if entry.kind == "text":
        return "", f"{html.text(entry.name)}{html.name(entry.path)}{score}"
    return html.picture(entry.path), f"{html.name(entry.name)}{score}"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The model that produced the vectors of an index, as recorded in the index.

    Attributes:
        sha256: SHA-256 of the checkpoint's weights.
        checkpoint: Human-readable name of the checkpoint.
        dim: Length of a vector.
        identity: `ModelInfo.identity`, which all vectors of an index share; "" in one of an older release.
    """

    sha256: str
    checkpoint: str
    dim: int
    identity: str = ""


def dump_identity(identity: Identity) -> str:
    """Serialise the identity to JSON, as stored in the index."""
    return json.dumps({"format": FORMAT, **asdict(identity)})


def parse_identity(text: str | None, address: str) -> Identity:
    """Parse the output of `dump_identity`.

    Raises:
        InvalidInputError: The text does not come from an index, or the index has a newer format.
    """
    try:
        values = json.loads(text or "")
        found = values.pop("format")
        if found in (1, FORMAT):
            return Identity(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInputError(
            f"{address!r} was not written by tritonclip; give the address of an index"
        ) from error
    raise InvalidInputError(
        f"the index {address!r} has format {str(found)[:20]}; this version reads formats up to {FORMAT}"
    )


def entry_id(kind: Kind, path: str, text: str = "") -> str:
    """Return the ID of an entry, 32 hexadecimal digits."""
    return hashlib.blake2b("\0".join((kind, path, text)).encode(), digest_size=16).hexdigest()
