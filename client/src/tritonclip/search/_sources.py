"""Inputs of an index: the image files in directories, and the lines of text files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclip import find_images
from tritonclip._images.files import OnSkip
from tritonclip._images.sources import open_without_waiting
from tritonclip.errors import InvalidInputError
from tritonclip.search._types import Kind, Stamp, entry_id

MAX_FILE_BYTES = 64 * 2**20
"""Largest image file that the server accepts in a request."""

SETTLED_NS = 2_000_000_000
"""A file modified less than this long ago may change again without a new modification time."""


@dataclass(frozen=True, kw_only=True)
class SourceItem:
    """An image or a text that was found in the sources; see `Entry` for the attributes."""

    id: str
    kind: Kind
    path: str
    name: str
    stamp: Stamp


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The directories and text files that a sync run covers.

    Attributes:
        directories: Absolute paths; all images below them are included.
        text_files: Absolute paths of UTF-8 files with one text per line.
    """

    directories: tuple[str, ...] = ()
    text_files: tuple[str, ...] = ()

    @classmethod
    def check(
        cls, directories: Sequence[str | os.PathLike[str]], text_files: Sequence[str | os.PathLike[str]]
    ) -> Sources:
        """Check that all sources exist, so that an unmounted disk is not taken for deleted files.

        Raises:
            InvalidInputError: No source is given, or one is missing or of the wrong type.
        """
        if not directories and not text_files:
            raise InvalidInputError("nothing to index; give a directory or a text file")
        for path in directories:
            if not os.path.isdir(path):
                raise InvalidInputError(f"no such directory: {str(path)!r}")
        for path in text_files:
            if not os.path.isfile(path):
                raise InvalidInputError(f"no such file: {str(path)!r}")
        return cls(
            directories=tuple(os.path.abspath(path) for path in directories),
            text_files=tuple(os.path.abspath(path) for path in text_files),
        )

    def covers(self, kind: Kind, path: str) -> bool:
        """Return True if an entry belongs to these sources, so that it is deleted when its file is gone."""
        if kind == "text":
            return path in self.text_files
        return any(Path(path).is_relative_to(directory) for directory in self.directories)

    def items(self, on_skip: OnSkip) -> Iterator[SourceItem | tuple[str, str]]:
        """Yield each item lazily; yield the path and the reason for a file that cannot be indexed.

        Args:
            on_skip: Called with each file that is not taken for an image; see `find_images`.
        """
        for directory in self.directories:
            for path in find_images(directory, on_skip=on_skip):
                yield _image_item(path, directory)
        for file in self.text_files:
            yield from _text_items(file)


def _image_item(path: Path, directory: str) -> SourceItem | tuple[str, str]:
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text, "its name is not UTF-8; rename it"
    try:
        status = path.stat()
    except OSError as error:
        return text, error.strerror or str(error)
    return SourceItem(
        id=entry_id("image", text),
        kind="image",
        path=text,
        name=path.relative_to(directory).as_posix(),
        stamp=Stamp(size=status.st_size, mtime_ns=status.st_mtime_ns),
    )


def _text_items(file: str) -> Iterator[SourceItem]:
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for line in lines:
                if text := line.strip():
                    yield SourceItem(
                        id=entry_id("text", file, text), kind="text", path=file, name=text, stamp=Stamp()
                    )
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {file!r}: {error}") from error


def read_image(path: str) -> tuple[bytes, Stamp]:
    """Read a file; return its content and its stamp at the time of reading.

    Raises:
        InvalidInputError: The file cannot be read or is too large.
    """
    try:
        with open(path, "rb", opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if status.st_size > MAX_FILE_BYTES:
                raise InvalidInputError(f"{status.st_size} bytes, over the limit of {MAX_FILE_BYTES}")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(error.strerror or str(error)) from error
    settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS and len(content) == status.st_size
    return content, Stamp(size=len(content), mtime_ns=status.st_mtime_ns if settled else 0)


def sha256(content: bytes) -> str:
    """Return the SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
