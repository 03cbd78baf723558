"""Labelled images: a folder with one subfolder per class, or a CSV file of paths and labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonclip import TritonClipError, find_images


class DataError(ValueError):
    """Data that cannot be evaluated. The message names the file, the problem and the fix in one line."""


@dataclass(frozen=True)
class LabelledImages:
    """Images and their true labels.

    Attributes:
        labels: The classes, as CLIP is asked about them.
        paths: The image files.
        truth: Index of the label of each image.
    """

    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    truth: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)


def read_images(source: Path, names: Path | None = None, limit: int | None = None) -> LabelledImages:
    """Read a data set.

    Args:
        source: A folder with one subfolder of images per class, or a CSV file with the columns `path`
            (relative to the CSV file) and `label`.
        names: JSON file that maps the name of a folder, or a label of the CSV file, to a candidate label.
            Classes that it does not name are left out. A class without images still competes as a label.
        limit: Maximum number of images per class, the first by name.

    Raises:
        DataError: The source is missing, empty or malformed, an image is missing, or two classes have the
            same label.
    """
    found = _read_csv(source) if source.is_file() else _read_folders(source)
    words = dict.fromkeys(found) if names is None else _read_names(names)
    labels = [words[name] or name for name in words]
    if len(set(labels)) < len(labels):
        raise DataError(f"{names}: two classes have the same label, so predictions would be ambiguous")
    if len(labels) < 2:
        raise DataError(f"{source}: {len(labels)} class found; at least two are required")
    rows = [(path, number) for number, name in enumerate(words) for path in found.get(name, [])[:limit]]
    if not rows:
        raise DataError(f"{source} has no images" + (f" of the classes in {names}" if names else ""))
    return LabelledImages(tuple(labels), tuple(path for path, _ in rows), tuple(number for _, number in rows))


def read_templates(path: Path) -> tuple[str, ...]:
    """Read one template per line, such as "a photo of a {}.". Empty lines and # comments are skipped."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    templates = tuple(line for line in lines if line and not line.startswith("#"))
    if not templates:
        raise DataError(f"{path} contains no template")
    return templates


def _read_folders(source: Path) -> dict[str, list[Path]]:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or CSV file")
    found: dict[str, list[Path]] = {}
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        try:
            found[folder.name] = [Path(path) for path in find_images(folder)]
        except TritonClipError:  # a folder without images
            found[folder.name] = []
    return found


def _read_csv(source: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{source}: the first line must name the columns path and label")
            for row in reader:
                path = source.parent / (row["path"] or "")
                if not path.is_file():
                    raise DataError(f"{source}, line {reader.line_num}: no such file: {path}")
                if not row["label"]:
                    raise DataError(f"{source}, line {reader.line_num}: the label is missing")
                found.setdefault(row["label"], []).append(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} is not a UTF-8 CSV file: {error}") from error
    return dict(sorted(found.items()))


def _read_names(path: Path) -> Mapping[str, str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(names, dict) or not all(isinstance(word, str) and word for word in names.values()):
        example = '{"n02123045": "tabby cat", ...}'
        raise DataError(f"{path}: expected an object of names and labels, such as {example}")
    return names
