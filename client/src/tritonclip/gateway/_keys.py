"""API keys: made here, kept as SHA-256 digests, compared in constant time, revoked by editing a file.

A line is `NAME:HEX`, where HEX is the SHA-256 digest of the key; `#` begins a comment. One plain hash is
enough, since the keys that `make_key` draws have 256 random bits: nobody guesses one, however fast the hash.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from pathlib import Path

from tritonclip.errors import InvalidInputError

PREFIX = "tck-"  # so that a key which leaked into a text is found by a scan
CHECK_EVERY_S = 1.0
NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_LINE = re.compile(rf"({NAME.pattern}):([0-9a-f]{{64}})")

log = logging.getLogger("tritonclip.gateway")


def make_key() -> str:
    """A new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """The SHA-256 digest of a key, hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def parse_keys(text: str, source: str) -> dict[str, str]:
    """The digests of a text by their names.

    Args:
        text: `NAME:HEX` separated by line ends, commas or blanks.
        source: Where it is from, for the error.

    Raises:
        InvalidInputError: If an entry is malformed or a name stands twice; names its line, not its content.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for entry in re.split(r"[,\s]+", line.partition("#")[0].strip()):
            if not entry:
                continue
            found = _LINE.fullmatch(entry)
            if not found or found[1] in keys:
                wrong = (
                    "this name stands twice" if found else "expected NAME:SHA256, as gateway-key prints it"
                )
                raise InvalidInputError(f"{source}, line {number}: {wrong}")
            keys[found[1]] = found[2]
    return keys


class KeyRing:
    """The keys that are valid now.

    Args:
        fixed: From the environment.
        file: Read at once, and again when it has changed; looked at once a second at most.

    Raises:
        InvalidInputError: If either is malformed now. A file that becomes so later keeps nobody's key:
            whoever edits it may mean to revoke one.
    """

    def __init__(self, fixed: dict[str, str], file: Path | None) -> None:
        self._fixed, self._file = fixed, file
        self._keys = fixed | (parse_keys(file.read_text("utf-8"), str(file)) if file else {})
        self._stamp = self._stamp_now()
        self._looked_s = time.monotonic()

    def name_of(self, key: str) -> str | None:
        """The name of a key; None if it is not valid. Compares with every key, whichever fits."""
        self._refresh()
        wanted, found = digest(key), None
        for name, known in self._keys.items():
            if hmac.compare_digest(known, wanted):
                found = name
        return found

    def _refresh(self) -> None:
        now_s = time.monotonic()
        if self._file is None or now_s - self._looked_s < CHECK_EVERY_S:
            return
        self._looked_s = now_s
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            read = parse_keys(self._file.read_text("utf-8"), str(self._file))
            log.info("API keys read anew", extra={"keys": len(read)})
        except (OSError, ValueError) as error:
            read = {}
            log.error("no API key of the file is valid until it is mended", extra={"cause": str(error)})
        self._keys = self._fixed | read

    def _stamp_now(self) -> tuple[int, int, int] | None:
        """What changes with the file's content: its inode, its size and its time of change."""
        try:
            status = self._file.stat() if self._file else None
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns) if status else None
