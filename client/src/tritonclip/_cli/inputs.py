"""Inputs of the command: images and labels from arguments, and lists from standard input.

Inputs are read lazily, because directories and lists may be larger than memory.
"""

from __future__ import annotations

import glob
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import click

from tritonclip._images.files import IMAGE_SUFFIXES, OnSkip, find_images
from tritonclip._images.skipped import SkippedCounts, SkippedFile, summarize_skipped
from tritonclip.errors import InvalidInputError

STDIN = "-"
NAMED_FILES = 3
_CHUNK_BYTES = 65536
_URL_SCHEMES = ("http://", "https://")


def split_items(items: Sequence[str], *, only_images: bool = False) -> tuple[list[str], list[str]]:
    """Split positional arguments into leading ones that name images, and the labels or texts after them.

    Args:
        items: The arguments.
        only_images: Require that every argument names images, because options give the labels.

    Raises:
        click.UsageError: If an image is missing, or a label looks like an image.
    """
    first_label = next((i for i, item in enumerate(items) if not _names_images(item)), len(items))
    images, labels = list(items[:first_label]), list(items[first_label:])
    if labels and (only_images or not images):
        raise click.UsageError(f"{labels[0]}: no such file; {_expected(only_images)}")
    for label in labels:
        if Path(label).suffix.lower() in IMAGE_SUFFIXES or label.startswith(_URL_SCHEMES):
            problem = "images go before the labels" if _names_images(label) else "no such file"
            raise click.UsageError(f"{label}: {problem}; if it is a label, give it with an option")
    if images.count(STDIN) > 1:
        raise click.UsageError("- is given twice; standard input can be read only once")
    return images, labels


def _expected(only_images: bool) -> str:
    if only_images:
        return (
            "if options give the labels or texts, each argument must be a file, directory, pattern, URL or -"
        )
    return "the first arguments must be images: files, directories, patterns, URLs, or - for a list on stdin"


def _names_images(item: str) -> bool:
    if item == STDIN or item.startswith(_URL_SCHEMES):
        return True
    if os.path.exists(item):
        return True
    try:
        return glob.has_magic(item) and any(True for _ in find_images(item))
    except InvalidInputError:
        return False


def count_known(images: Sequence[str]) -> int | None:
    """Return the number of inputs, or None if directories, patterns or lists have to be read first."""
    return None if any(not _is_single(item) for item in images) else len(images)


def count_images(images: Sequence[str], stop: threading.Event) -> int | None:
    """Return the number of inputs, or None if an argument is a list, a search fails or the event is set."""
    total = 0
    try:
        for item in images:
            if item == STDIN:
                return None
            for _ in [item] if _is_single(item) else find_images(item, on_skip=lambda skipped: None):
                total += 1
                if stop.is_set():
                    return None
    except InvalidInputError:  # the run reports it
        return None
    return total


def _is_single(item: str) -> bool:
    return item.startswith(_URL_SCHEMES) or (item != STDIN and os.path.isfile(item))


def check_not_empty(images: Sequence[str]) -> None:
    """Check that each directory and pattern matches an image, so that a run does not stop halfway.

    Raises:
        InvalidInputError: If one matches no image.
    """
    for item in images:
        if item != STDIN and not _is_single(item):
            next(find_images(item))


def check_complete(images: Sequence[str], *, apart_from: str | None = None) -> None:
    """Search all directories, and check that none has a file that may be an image and would be left out.

    Args:
        images: The arguments that name images.
        apart_from: Path of an index, whose own files do not matter.

    Raises:
        InvalidInputError: If one has such a file.
    """
    counts = SkippedCounts()
    named: list[str] = []

    def add(skipped: SkippedFile) -> None:
        own = apart_from is not None and skipped.path.absolute().is_relative_to(Path(apart_from).absolute())
        if skipped.may_be_image and not own:
            counts.add(skipped)
            if len(named) < NAMED_FILES:
                named.append(str(skipped.path))

    for item in images:
        if item != STDIN and not _is_single(item):
            deque(find_images(item, on_skip=add), maxlen=0)
    if named:
        summary = summarize_skipped(counts.kinds()).removeprefix("skipped ")
        raise InvalidInputError(
            f"--strict: the run would leave out {summary}; the first are {', '.join(map(repr, named))}"
        )


def read_images(
    images: Sequence[str], *, null: bool = False, on_skip: OnSkip = lambda skipped: None
) -> Iterator[str]:
    """Yield the paths and URLs that the arguments name, in order. `-` reads a list from standard input."""
    for item in images:
        if item == STDIN:
            yield from (os.fsdecode(line) for line in stdin_items(null))
        elif _is_single(item):
            yield item
        else:
            yield from map(str, find_images(item, on_skip=on_skip))


def read_texts(texts: Sequence[str], *, null: bool = False) -> Iterator[str]:
    """Yield the texts of the arguments. `-` reads UTF-8 lines from standard input."""
    for text in texts:
        if text == STDIN:
            yield from (line.decode("utf-8", "surrogateescape") for line in stdin_items(null))
        else:
            yield text


def stdin_items(null: bool) -> Iterator[bytes]:
    """Yield the non-blank entries on standard input, separated by line ends or by NULs."""
    entries = split_stream(sys.stdin.buffer, b"\0" if null else b"\n")
    return (entry for entry in (e if null else e.rstrip(b"\r") for e in entries) if entry.strip())


def split_stream(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    """Yield the parts of a stream between separators, each as soon as it has arrived."""
    # read1 returns what has arrived; read blocks until the buffer is full.
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := read(_CHUNK_BYTES):
        *parts, rest = (rest + chunk).split(separator)
        yield from parts
    if rest:
        yield rest


def read_lines(path: Path, option: str, noun: str) -> list[str]:
    """Return the non-blank lines of a UTF-8 file, stripped.

    Args:
        path: The file.
        option: The option that named the file, for error messages.
        noun: Noun for the content of a line, "label" or "text".

    Raises:
        click.UsageError: If the file cannot be read or has no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{option} {path}: cannot read: {error}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise click.UsageError(f"{option} {path}: holds no {noun}; write one per line")
    return found
