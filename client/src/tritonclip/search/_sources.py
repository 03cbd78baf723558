"""What is to be in an index: the image files of directories, and the lines of text files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclip import find_images
from tritonclip.errors import InvalidInputError
from tritonclip.search._types import Kind, Stamp, entry_id

MAX_FILE_BYTES = 64 * 2**20
"""As much as the server takes in one request."""

SETTLED_NS = 2_000_000_000
"""A file that was written less than this ago may be written again at what is the same time for the system."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something to index; see `Entry`."""

    id: str
    kind: Kind
    path: str
    name: str
    stamp: Stamp


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What one run looks at.

    Attributes:
        directories: Absolute; their images, with all below.
        text_files: Absolute; UTF-8, a text a line.
    """

    directories: tuple[str, ...] = ()
    text_files: tuple[str, ...] = ()

    @classmethod
    def check(
        cls, directories: Sequence[str | os.PathLike[str]], text_files: Sequence[str | os.PathLike[str]]
    ) -> Sources:
        """Check that they are there, so that a run does not take a disk that is away for deleted files.

        Raises:
            InvalidInputError: If none is given, one is missing, or one is no directory or no file.
        """
        if not directories and not text_files:
            raise InvalidInputError("nothing to index; give a directory, or a file of texts")
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
        """Whether an entry is of these, so that it goes where it is not found any more."""
        if kind == "text":
            return path in self.text_files
        return any(Path(path).is_relative_to(directory) for directory in self.directories)

    def items(self) -> Iterator[Item | tuple[str, str]]:
        """Each item, found as it is asked for, or the path and the reason why it cannot be taken."""
        for directory in self.directories:
            for path in find_images(directory):
                yield _image(path, directory)
        for file in self.text_files:
            yield from _texts(file)


def _image(path: Path, directory: str) -> Item | tuple[str, str]:
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text, "its name is not UTF-8; rename it"
    try:
        status = path.stat()
    except OSError as error:
        return text, error.strerror or str(error)
    return Item(
        id=entry_id("image", text),
        kind="image",
        path=text,
        name=path.relative_to(directory).as_posix(),
        stamp=Stamp(size=status.st_size, mtime_ns=status.st_mtime_ns),
    )


def _texts(file: str) -> Iterator[Item]:
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for line in lines:
                if text := line.strip():
                    yield Item(
                        id=entry_id("text", file, text), kind="text", path=file, name=text, stamp=Stamp()
                    )
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {file!r}: {error}") from error


def read_image(path: str) -> tuple[bytes, Stamp]:
    """A file's content and its stamp at that time.

    Raises:
        InvalidInputError: If it cannot be read or is too large.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size > MAX_FILE_BYTES:
                raise InvalidInputError(f"{status.st_size} bytes, over the limit of {MAX_FILE_BYTES}")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(error.strerror or str(error)) from error
    settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS and len(content) == status.st_size
    return content, Stamp(size=len(content), mtime_ns=status.st_mtime_ns if settled else 0)


def sha256(content: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(content).hexdigest()
