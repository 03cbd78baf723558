"""Checks of labels, texts, templates and ranking options; each returns the plain value or raises."""

from __future__ import annotations

import string
from collections.abc import Sequence

from tritonclip._messages.text import encoded_image, shown, split_labels
from tritonclip.errors import InvalidInputError

DEFAULT_LABELS = ("object", "animal", "vehicle", "person", "food")
DEFAULT_HYPOTHESIS_TEMPLATE = "This is a photo of {}."
MAX_TEMPLATE_CHARS = 1000  # CLIP reads 77 tokens, or 248
MIN_IMAGE_CHARS = 20  # no shorter text encodes an image


def check_labels(labels: object) -> list[str]:
    """Return candidate labels as a list; None gives `DEFAULT_LABELS`, a string is split by `split_labels`.

    Raises:
        InvalidInputError: There is no label, or one is not a string, is blank, or is not valid Unicode.
    """
    if labels is None:
        return list(DEFAULT_LABELS)
    if isinstance(labels, str):
        labels = split_labels(labels)
    return _check_strings(labels, field="labels", kind="label")


def label_warning(given: object, labels: Sequence[str]) -> str | None:
    """Return a warning if the scores of labels say little about an image, else None.

    Args:
        given: The labels as the caller gave them; None if there were none.
        labels: The labels that `check_labels` returned.
    """
    if given is None:
        return f"no labels were given; ranked the default labels: {', '.join(labels)}"
    if len(labels) == 1:
        return "only one label was given; its score is 1 whatever the image shows, so give at least two"
    return None


def check_texts(texts: object) -> tuple[list[str], bool]:
    """Return texts as a list, and True if a single string was given; raise as `check_labels` does."""
    if isinstance(texts, str):
        return _check_strings([texts], field="texts", kind="text"), True
    return _check_strings(texts, field="texts", kind="text"), False


def check_text(value: object, index: int, kind: str = "text") -> str:
    """Return one text of a list or a bulk run; raise as `check_labels` does."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{kind} {index}: expected a string, got {type(value).__name__}")
    if not value.strip():
        raise InvalidInputError(f"{kind} {index}: it is blank; give at least one character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _no_utf8(f"{kind} {index}", error) from error
    if len(value) >= MIN_IMAGE_CHARS and (found := encoded_image(value)):
        raise InvalidInputError(f"{kind} {index}: it is {found}, not a text; send it as an image")
    return value


def _check_strings(values: object, *, field: str, kind: str) -> list[str]:
    if not isinstance(values, (list, tuple)):
        raise InvalidInputError(f"{field}: expected a list of strings, got {type(values).__name__}")
    if not values:
        raise InvalidInputError(f"{field}: the list is empty; give at least one {kind}")
    return [check_text(value, index, kind) for index, value in enumerate(values)]


def _no_utf8(name: str, error: UnicodeEncodeError) -> InvalidInputError:
    return InvalidInputError(
        f"{name}: character {error.start} is a lone surrogate, which UTF-8 cannot encode; "
        "decode the text from its bytes again"
    )


def check_template(template: object) -> str:
    """Return a hypothesis template: a `str.format` text with exactly one plain `{}`."""
    if template == DEFAULT_HYPOTHESIS_TEMPLATE:
        return DEFAULT_HYPOTHESIS_TEMPLATE
    if not isinstance(template, str):
        raise InvalidInputError(f"hypothesis_template: expected a string, got {type(template).__name__}")
    if len(template) > MAX_TEMPLATE_CHARS:
        raise InvalidInputError(
            f"hypothesis_template: {len(template)} characters, over the limit of {MAX_TEMPLATE_CHARS}; "
            "CLIP reads only the first tokens of a text, 77 for most checkpoints"
        )
    try:
        fields = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise InvalidInputError(
            f"hypothesis_template {shown(template)}: {error}; double all other braces"
        ) from error
    if fields != [("", "", None)]:
        raise InvalidInputError(
            f"hypothesis_template {shown(template)}: expected exactly one plain {{}} for the label; "
            "for labels that are whole sentences give '{}'"
        )
    try:
        template.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _no_utf8("hypothesis_template", error) from error
    return template


def check_top_k(top_k: object) -> int | None:
    """Return the number of labels to keep, 1 or more; None keeps all."""
    if top_k is None:
        return None
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise InvalidInputError(f"top_k: expected a whole number of 1 or more, or None, got {top_k!r:.100}")
    return top_k


def check_threshold(threshold: object) -> float | None:
    """Return the lowest score to keep, 0 to 1; None keeps all."""
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise InvalidInputError(f"threshold: expected a score from 0 to 1, or None, got {threshold!r:.100}")
    return float(threshold)
