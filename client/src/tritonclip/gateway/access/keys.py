"""API keys, stored as SHA-256 digests and revoked by editing a file.

An entry is `NAME:HEX`, where HEX is the SHA-256 digest of the key; `#` starts a comment. A single unsalted
hash is enough, because `make_key` draws 256 random bits: such a key cannot be guessed at any hashing speed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from tritonclip.errors import InvalidInputError

PREFIX = "tck-"  # lets secret scanners find a leaked key
CHECK_EVERY_S = 1.0
NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_ENTRY = re.compile(rf"({NAME.pattern}):([0-9a-f]{{64}})")

log = logging.getLogger("tritonclip.gateway")


def make_key() -> str:
    """Generate an API key with 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """Return the hexadecimal SHA-256 digest of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def parse_keys(text: str, source: str) -> dict[str, str]:
    """Parse entries into a mapping from key names to digests.

    Args:
        text: `NAME:HEX` entries separated by line breaks, commas or blanks.
        source: Name of the file or variable that held the text, for error messages.

    Raises:
        InvalidInputError: If an entry is malformed or a name occurs twice. The message names the line but
            does not repeat its content.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for entry in re.split(r"[,\s]+", line.partition("#")[0].strip()):
            if not entry:
                continue
            found = _ENTRY.fullmatch(entry)
            if not found:
                raise InvalidInputError(
                    f"{source}, line {number}: expected NAME:SHA256, as gateway-key prints it"
                )
            if found[1] in keys:
                raise InvalidInputError(f"{source}, line {number}: duplicate name")
            keys[found[1]] = found[2]
    return keys


class KeyRing:
    """The API keys that are currently valid.

    Args:
        fixed: Keys from the environment.
        file: Keys file. It is read immediately and reloaded when it changes; changes are checked for at most
            once per second.
        clock_s: Returns the time in seconds.

    Raises:
        InvalidInputError: If either source is malformed at start. If the file becomes malformed later, all
            of its keys are disabled, because the edit may have been meant to revoke one.
    """

    def __init__(
        self, fixed: dict[str, str], file: Path | None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed, self._file, self._clock_s = fixed, file, clock_s
        self._keys = fixed | (parse_keys(file.read_text("utf-8"), str(file)) if file else {})
        self._stamp = self._current_stamp()
        self._checked_s = clock_s()

    def name_of(self, key: str) -> str | None:
        """Return the name of a key, or None if it is not valid.

        Every stored digest is compared in constant time, so the duration reveals nothing.
        """
        self._reload_if_changed()
        wanted, found = digest(key), None
        for name, known in self._keys.items():
            if hmac.compare_digest(known, wanted):
                found = name
        return found

    def _reload_if_changed(self) -> None:
        now_s = self._clock_s()
        if self._file is None or now_s - self._checked_s < CHECK_EVERY_S:
            return
        self._checked_s = now_s
        stamp = self._current_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            loaded = parse_keys(self._file.read_text("utf-8"), str(self._file))
            log.info("API keys reloaded", extra={"keys": len(loaded)})
        except (OSError, ValueError) as error:
            loaded = {}
            log.error(
                "cannot load the keys file; its keys are disabled until it is fixed",
                extra={"cause": str(error)},
            )
        self._keys = self._fixed | loaded

    def _current_stamp(self) -> tuple[int, int, int] | None:
        """Return the file's inode, size and modification time, which change with its content."""
        try:
            status = self._file.stat() if self._file else None
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns) if status else None
