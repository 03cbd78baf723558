"""Checks of labels, texts, template and options; each returns the value in its plain form or raises."""

from __future__ import annotations

import string

from tritonclip.errors import InvalidInputError

DEFAULT_LABELS = ("object", "animal", "vehicle", "person", "food")
DEFAULT_HYPOTHESIS_TEMPLATE = "This is a photo of {}."


def check_labels(labels: object) -> list[str]:
    """Candidate labels as a list; None gives `DEFAULT_LABELS`, a string is split at its commas.

    Raises:
        InvalidInputError: If there is no label, or one is not a string, blank, or no Unicode text.
    """
    if labels is None:
        return list(DEFAULT_LABELS)
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    return _check_strings(labels, field="labels", one="label")


def check_texts(texts: object) -> tuple[list[str], bool]:
    """Texts as a list, and whether a single string was given; raises like `check_labels`."""
    if isinstance(texts, str):
        return _check_strings([texts], field="texts", one="text"), True
    return _check_strings(texts, field="texts", one="text"), False


def check_text(value: object, index: int, kind: str = "text") -> str:
    """One text of a list, or of a bulk run; raises like `check_labels`."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{kind} {index}: expected a string, got {type(value).__name__}")
    if not value.strip():
        raise InvalidInputError(f"{kind} {index}: it is blank; give at least one character")
    _check_utf8(value, f"{kind} {index}")
    return value


def _check_strings(values: object, *, field: str, one: str) -> list[str]:
    if not isinstance(values, (list, tuple)):
        raise InvalidInputError(f"{field}: expected a list of strings, got {type(values).__name__}")
    if not values:
        raise InvalidInputError(f"{field}: the list is empty; give at least one {one}")
    return [check_text(value, index, one) for index, value in enumerate(values)]


def _check_utf8(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{where}: character {error.start} is a lone surrogate, which UTF-8 cannot hold; "
            "decode the text from its bytes anew"
        ) from error


def check_template(template: object) -> str:
    """A hypothesis template: `str.format` text with exactly one plain `{}`."""
    if not isinstance(template, str):
        raise InvalidInputError(f"hypothesis_template: expected a string, got {type(template).__name__}")
    try:
        fields = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise InvalidInputError(
            f"hypothesis_template {template!r}: {error}; write other braces doubled"
        ) from error
    if fields != [("", "", None)]:
        raise InvalidInputError(
            f"hypothesis_template {template!r}: expected exactly one plain {{}}, where the label goes; "
            "for labels that are whole sentences give '{}'"
        )
    _check_utf8(template, "hypothesis_template")
    return template


def check_top_k(top_k: object) -> int | None:
    """The number of labels to keep, 1 or more; None keeps all."""
    if top_k is None:
        return None
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise InvalidInputError(f"top_k: expected a whole number of 1 or more, or None, got {top_k!r}")
    return top_k


def check_threshold(threshold: object) -> float | None:
    """The lowest score to keep, 0 to 1; None keeps all."""
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise InvalidInputError(f"threshold: expected a score from 0 to 1, or None, got {threshold!r}")
    return float(threshold)
