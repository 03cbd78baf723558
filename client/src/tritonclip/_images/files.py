"""Search for image files by path, directory and pattern.

No file is opened. Only the names in the directories on the way to the current file are held in memory, so a
tree of a million files yields its first path at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tritonclip._images.skipped import (
    SkippedCounts,
    SkippedFile,
    skipped_entry,
    summarize_skipped,
    unlisted_directory,
    unreadable_entry,
)
from tritonclip._messages.callers import warn
from tritonclip.errors import InvalidInputError

#: File suffixes by Pillow's format name, for the formats that a server with pillow-heif accepts by default.
FORMAT_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "HEIF": (".heic", ".heics", ".heif", ".heifs", ".hif"),
}

#: Lower-case suffixes of the files that are found in a directory.
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes)

OnSkip = Callable[[SkippedFile], None]

_WILD = re.compile(r"[*?[]")


def find_images(*patterns: str | os.PathLike[str], on_skip: OnSkip | None = None) -> Iterator[Path]:
    """Find image files, one pattern after the other.

    Args:
        patterns: Files, directories and glob patterns.

            - A file is yielded whatever its suffix.
            - A directory yields the files in it and below it that have one of `IMAGE_SUFFIXES`, sorted by
              name. Hidden entries and directories that cannot be listed are skipped; links are followed.
            - Anything else with `*`, `?` or `[` is a pattern, in which `**` matches any number of
              directories. A matching file is yielded; a matching directory is searched.
        on_skip: Called with a `SkippedFile` for each file of a searched directory that is left out. None: a
            warning at the end counts those that may be images.

    Returns:
        The paths, found lazily.

    Raises:
        InvalidInputError: No pattern is given or a path does not exist (raised at once), or a pattern yields
            no file or its first directory cannot be read (raised during iteration).
    """
    if not patterns:
        raise InvalidInputError("find_images: nothing given; give files, directories or patterns")
    requests = [_Request.of(pattern) for pattern in patterns]
    return _each_with_warning(requests) if on_skip is None else _each(requests, on_skip)


@dataclass(frozen=True)
class _Request:
    """One pattern: the path at which its search begins, and the parts to match below it.

    Without parts every image below the start is wanted.
    """

    text: str
    start: Path
    parts: tuple[str, ...] = ()

    @classmethod
    def of(cls, pattern: object) -> _Request:
        try:
            text = os.fsdecode(pattern)  # type: ignore[arg-type]
        except TypeError as error:
            raise InvalidInputError(
                f"find_images: expected a path or a pattern, got {type(pattern).__name__}"
            ) from error
        if os.path.exists(text):
            return cls(text, Path(text))
        parts = Path(text).parts
        first = next((place for place, part in enumerate(parts) if _WILD.search(part)), None)
        if first is None:
            raise InvalidInputError(f"no such file or directory: {text!r}; check the path")
        return cls(text, Path(*parts[:first]), parts[first:])


def _each_with_warning(requests: list[_Request]) -> Iterator[Path]:
    counts = SkippedCounts()
    yield from _each(requests, lambda skipped: counts.add(skipped) if skipped.may_be_image else None)
    if summary := summarize_skipped(counts.kinds()):
        warn(f"find_images: {summary}")


def _each(requests: list[_Request], on_skip: OnSkip) -> Iterator[Path]:
    for request in requests:
        empty, counts = True, SkippedCounts()

        def skip(skipped: SkippedFile, counts: SkippedCounts = counts) -> None:
            counts.add(skipped)
            on_skip(skipped)

        for path in _search(request, skip):
            empty = False
            yield path
        if empty and request.parts and not counts.kinds():
            raise InvalidInputError(f"no file matches {request.text!r}; check the pattern")
        if empty:
            summary = summarize_skipped(counts.kinds())
            raise InvalidInputError(
                f"no image files in the directory {request.text!r}; files with one of the suffixes "
                f"{' '.join(sorted(IMAGE_SUFFIXES))} count; name others one by one or by a pattern"
                f"{'; ' if summary else ''}{summary}"
            )


class _Level:
    """A directory on the way to the current file: its identity, and its remaining entries, the next one last.

    `places` are the indices of the pattern's parts that may match in it. The index after the last part
    matches everything.
    """

    def __init__(
        self,
        path: Path,
        identity: tuple[int, int],
        parts: tuple[str, ...],
        places: frozenset[int],
        on_skip: OnSkip,
    ) -> None:
        self.path, self.identity = path, identity
        self.rest: list[tuple[str, frozenset[int] | None]] = []  # name, and the places of a directory
        with os.scandir(path) as entries:
            for entry in entries:
                below = _places_below(entry.name, parts, places)
                try:
                    if below and entry.is_dir():
                        self.rest.append((entry.name, below))
                    elif _is_wanted(entry.name, parts, places) and entry.is_file():
                        self.rest.append((entry.name, None))
                    elif len(parts) in places and (skipped := skipped_entry(path, entry, IMAGE_SUFFIXES)):
                        on_skip(skipped)
                except OSError as error:  # a link to itself, or into a directory that cannot be entered
                    on_skip(unreadable_entry(path / entry.name, error))
        self.rest.sort(key=lambda entry: entry[0], reverse=True)


def _search(request: _Request, on_skip: OnSkip) -> Iterator[Path]:
    """Search below the request's start, depth first."""
    if not request.start.is_dir():
        if not request.parts:
            yield request.start
        return
    places = _with_empty_runs({0}, request.parts)
    try:
        levels = [_Level(request.start, _identity(request.start), request.parts, places, on_skip)]
    except OSError as error:
        raise InvalidInputError(
            f"cannot list the directory {str(request.start)!r}: {error.strerror or error}; make it readable, "
            "or leave it out"
        ) from error
    linked: set[tuple[int, int]] = set()
    while levels:
        if not levels[-1].rest:
            levels.pop()
            continue
        name, below = levels[-1].rest.pop()
        path = levels[-1].path / name
        if below is None:
            yield path
            continue
        try:
            identity = _identity(path)
            if any(identity == above.identity for above in levels):
                continue  # a link to a directory above would never end
            if path.is_symlink():
                if identity in linked:
                    continue  # directories with links to each other would multiply
                linked.add(identity)
            levels.append(_Level(path, identity, request.parts, below, on_skip))
        except OSError as error:
            on_skip(unlisted_directory(path, error))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _places_below(name: str, parts: tuple[str, ...], places: frozenset[int]) -> frozenset[int]:
    """Return the places that may match in the directory `name`; none if it need not be entered."""
    hidden = name.startswith(".")
    if len(parts) in places:
        return frozenset() if hidden else frozenset({len(parts)})
    stay = {place for place in places if parts[place] == "**" and not hidden}
    go_on = {place + 1 for place in places if parts[place] != "**" and _matches(name, parts[place])}
    return _with_empty_runs(stay | go_on, parts)


def _is_wanted(name: str, parts: tuple[str, ...], places: frozenset[int]) -> bool:
    """Return True if a file of this name is wanted."""
    if len(parts) in places:
        return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    return len(parts) - 1 in places and parts[-1] != "**" and _matches(name, parts[-1])


def _with_empty_runs(places: set[int], parts: tuple[str, ...]) -> frozenset[int]:
    """Add the place after each `**`, which may also match no directory at all."""
    reached = set(places)
    for place, part in enumerate(parts):
        if place in reached and part == "**":
            reached.add(place + 1)
    return frozenset(reached)


def _matches(name: str, part: str) -> bool:
    """Match as a shell does: only an explicit dot matches a leading dot."""
    return fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
