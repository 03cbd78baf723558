"""Texts that arrive as arrays of tokens of another vocabulary than CLIP's, decoded by tiktoken."""

from __future__ import annotations

from collections.abc import Callable

from tritonclip._messages.text import shown
from tritonclip.errors import InvalidInputError, MissingExtraError, install_command

Decode = Callable[[list[int]], str]


def load_decoder(encoding: str) -> Decode:
    """Return the function that decodes tokens. It raises KeyError or OverflowError for an unknown one.

    Args:
        encoding: Name of an encoding of tiktoken, such as `cl100k_base`. tiktoken downloads its file, or
            reads it from the directory in TIKTOKEN_CACHE_DIR.

    Raises:
        MissingExtraError: If the extra `tokens` is not installed.
        InvalidInputError: If there is no such encoding, or its file cannot be loaded.
    """
    try:
        import tiktoken
    except ImportError as error:
        raise MissingExtraError(
            f"token arrays need {error.name}; install it with: {install_command('tokens')}"
        ) from error
    if encoding not in (known := tiktoken.list_encoding_names()):
        raise InvalidInputError(f"token_arrays: {shown(encoding)} is unknown; give one of {', '.join(known)}")
    try:
        return tiktoken.get_encoding(encoding).decode
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"token_arrays: the file of {encoding} cannot be loaded ({error}); allow the download, or set "
            "TIKTOKEN_CACHE_DIR to a directory in which tiktoken has stored the file"
        ) from error
