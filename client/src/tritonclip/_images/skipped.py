"""Files that a search for images leaves out: why, what to do about them, and how many there are."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

MAX_KINDS = 100
"""Number of different kinds that are counted apart; further ones are counted together."""
MAX_SUFFIX_CHARS = 12
SHOWN_KINDS = 8

_REASONS = {
    "camera raw; export it as JPEG": (
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf "
        ".raw .rw2 .rwl .sr2 .srf .srw .x3f"
    ),
    "format that is not supported; convert it to JPEG or PNG": (
        ".ai .cur .dcm .dcx .dds .dicom .djvu .emf .eps .exr .fits .fli .hdr .icns .ico .jng .jxl .jxr "
        ".mng .nii .ora .pcx .pdf .pfm .psb .psd .qoi .ras .sgi .svg .svgz .tga .vtf .wmf .xbm .xcf .xpm"
    ),
    "archive; unpack it": ".7z .bz2 .cbr .cbz .gz .iso .rar .tar .tbz2 .tgz .txz .xz .zip .zst",
    "video; extract the frames that you need": (
        ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .webm .wmv"
    ),
}
_REASON_BY_SUFFIX = {suffix: reason for reason, suffixes in _REASONS.items() for suffix in suffixes.split()}
_NO_IMAGES = frozenset(
    ".aae .c .cfg .conf .css .csv .db .doc .docx .flac .htm .html .ini .js .json .jsonl .log .lst .md .md5 "
    ".mp3 .ogg .pp3 .py .rst .sh .sha256 .sqlite .srt .toml .tsv .txt .url .wav .xls .xlsx .xml .xmp .yaml "
    ".yml".split()
)
_NO_IMAGE_NAMES = frozenset({"Thumbs.db", "desktop.ini", "Makefile", "LICENSE", "README"})
UNKNOWN_SUFFIX = "no suffix of an image; if it is one, name it or give a pattern"
NO_IMAGE = "not an image"
HIDDEN = "hidden; name it or give a pattern such as '**/.*'"
BROKEN_LINK = "link to nothing; correct or remove it"
SPECIAL = "pipe, socket or device; save its content in a file"


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """A file or directory that `find_images` left out.

    Attributes:
        path: Path of the file.
        reason: What it is, and what to do about it.
        may_be_image: False for files that hold no pictures, such as `.txt`.
        is_directory: True for a directory that cannot be listed.
    """

    path: Path
    reason: str
    may_be_image: bool = True
    is_directory: bool = False

    @property
    def suffix(self) -> str:
        """The lower-case suffix, such as `.jxl`; empty for a directory, for an odd suffix, and for none."""
        suffix = "" if self.is_directory else self.path.suffix.lower()
        return suffix if len(suffix) <= MAX_SUFFIX_CHARS and suffix.isprintable() else ""


@dataclass(frozen=True, kw_only=True)
class SkippedKind:
    """The number of files that were left out with one suffix and for one reason; see `SkippedFile`."""

    suffix: str
    reason: str
    count: int
    may_be_image: bool
    is_directory: bool


class SkippedCounts:
    """Counts of the files that were left out, by suffix and reason.

    Attributes:
        directories: Paths of the directories that cannot be listed.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, bool, bool]] = Counter()
        self.directories: list[str] = []

    def add(self, skipped: SkippedFile) -> None:
        """Count a file."""
        kind = (skipped.suffix, skipped.reason, skipped.may_be_image, skipped.is_directory)
        if len(self._counts) >= MAX_KINDS and kind not in self._counts:
            kind = ("", UNKNOWN_SUFFIX, True, skipped.is_directory)
        self._counts[kind] += 1
        if skipped.is_directory:
            self.directories.append(str(skipped.path))

    def kinds(self) -> tuple[SkippedKind, ...]:
        """Return the kinds, those that may be images first, then by count."""
        kinds = [
            SkippedKind(suffix=suffix, reason=reason, count=count, may_be_image=image, is_directory=directory)
            for (suffix, reason, image, directory), count in self._counts.items()
        ]
        return tuple(sorted(kinds, key=lambda kind: (not kind.may_be_image, -kind.count, kind.suffix)))


def summarize_skipped(kinds: tuple[SkippedKind, ...]) -> str:
    """Return one line with the number of files of each kind, its reason and its cure; empty for no kind."""
    if not kinds:
        return ""
    shown = [f"{kind.count} {kind.suffix or 'other'} ({kind.reason})" for kind in kinds[:SHOWN_KINDS]]
    rest = sum(kind.count for kind in kinds[SHOWN_KINDS:])
    if rest:
        shown.append(f"{rest} of other kinds")
    total = sum(kind.count for kind in kinds)
    return f"skipped {total} file{'' if total == 1 else 's'}: {', '.join(shown)}"


def skipped_entry(
    directory: Path, entry: os.DirEntry[str], image_suffixes: frozenset[str]
) -> SkippedFile | None:
    """Describe an entry of a directory that is searched but not wanted; None if it need not be reported.

    Hidden files are reported if they have the suffix of an image, unless macOS made them for another file.
    """
    suffix = os.path.splitext(entry.name)[1].lower()
    path = directory / entry.name
    if entry.name.startswith("."):
        hidden_image = suffix in image_suffixes and not entry.name.startswith("._") and entry.is_file()
        return SkippedFile(path=path, reason=HIDDEN) if hidden_image else None
    if not entry.is_file():
        return SkippedFile(path=path, reason=BROKEN_LINK if entry.is_symlink() else SPECIAL)
    if suffix in _NO_IMAGES or entry.name in _NO_IMAGE_NAMES:
        return SkippedFile(path=path, reason=NO_IMAGE, may_be_image=False)
    return SkippedFile(path=path, reason=_REASON_BY_SUFFIX.get(suffix, UNKNOWN_SUFFIX))


def unlisted_directory(path: Path, error: OSError) -> SkippedFile:
    """Describe a directory below the one that is searched, if it cannot be listed."""
    why = f"directory that cannot be listed: {error.strerror or error}; make it readable"
    return SkippedFile(path=path, reason=why, is_directory=True)


def unreadable_entry(path: Path, error: OSError) -> SkippedFile:
    """Describe an entry of which the system does not say what it is."""
    return SkippedFile(path=path, reason=f"unreadable: {error.strerror or error}; correct or remove it")
