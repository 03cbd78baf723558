"""How far `vision_encoder` has come, and how fast: told to `image_preprocess` by a file in shared memory.

Decoding an image only for the encoder to refuse it would waste what an overloaded server has least of. So
`image_preprocess` keeps a list of what it has handed on, the encoder tells it the newest request that it has
taken up and the images it encodes a second, and the quotient of the two is how long the next request will
wait. Nothing is counted down, so requests that are cancelled or fail on the way do not add up.

The file is written by one process with aligned 8-byte stores, and read by others without a lock: figures
that are a moment old, or not of one moment, shift an estimate a little. Knows nothing of Triton.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clip_common.times import Times

DIRECTORY = Path("/dev/shm")
PREFIX = "tritonclip_progress_"
FIELDS = 4
"""Of the file, float64: newest arrival taken up, start of the pass, its images, images a microsecond."""
MEMORY = 0.8
"""Weight of all passes before in the rate, when one more ends."""
SEARCH_US = 1_000_000
"""How often readers look for instances that have started since."""
LONGEST_US = 60_000_000
"""How long a request counts at most that was handed on and never taken up."""


class State(NamedTuple):
    """One instance of the encoder."""

    newest_us: float
    """Arrival of the newest request taken up."""
    started_us: float
    """When the pass under way began."""
    images: float
    """Of the pass under way; 0 where there is none."""
    rate: float
    """Images encoded in a microsecond; 0 where it is not known."""


def progress_file(server: int, version: str, instance: str = "*") -> Path:
    """Where an instance of the encoder notes its progress.

    Args:
        server: Process id of the server, whose child each model instance is.
        version: Of the model.
        instance: Its name; without one, a pattern for all.
    """
    own = f"_{os.getpid()}" if instance != "*" else ""  # a version may be loaded again while it is served
    return DIRECTORY / f"{PREFIX}{server}_{version}_{instance}{own}"


class _HandedOn(NamedTuple):
    """A request on its way to the encoder."""

    arrival_us: int
    until_us: int
    images: int

    def is_past(self, newest_us: float, now: int) -> bool:
        """Whether the encoder has taken it up or refused it."""
        return self.arrival_us <= newest_us or now > self.until_us


class ProgressWriter:
    """Notes what an instance of the encoder does.

    Args:
        path: See `progress_file`; made anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        path.write_bytes(bytes(8 * FIELDS))
        self._fields = _map(path, mmap.ACCESS_WRITE)
        self._images = self._busy_us = 0.0

    def begin(self, newest_us: int, images: int, now: int) -> None:
        """A pass over `images` begins; `newest_us` is the arrival of its newest request."""
        newest = max(self._fields[0], min(newest_us, now))  # callers may send what they like
        self._fields[:3] = newest, now, images

    def end(self, now: int) -> None:
        """The pass has ended."""
        _, started, images, _ = self._fields
        self._images = MEMORY * self._images + images
        self._busy_us = MEMORY * self._busy_us + max(now - started, 1.0)
        self._fields[2:] = 0.0, self._images / self._busy_us

    def close(self) -> None:
        """Removes the file."""
        self._path.unlink(missing_ok=True)


class Forecast:
    """How long a request that goes to the encoder now will wait there.

    Args:
        pattern: The files of all instances of the encoder.
        shares: Processes that hand on to the encoder, each of which sees its own requests only.
    """

    def __init__(self, pattern: Path, shares: int) -> None:
        self._pattern, self._shares = pattern, shares
        self._instances: dict[str, np.ndarray] = {}
        self._searched_us = -SEARCH_US
        self._handed_on: deque[_HandedOn] = deque()

    def admit(self, times: Times, images: int, now: int) -> None:
        """Takes note of a request that will be handed on.

        Raises:
            RefusedError: It would come too late.
        """
        times.check(now, int(self.ahead_us(now)))
        # Callers of image_preprocess itself may send any times.
        arrival_us, until_us = min(times.arrival_us, now), min(times.latest_start_us, now + LONGEST_US)
        self._handed_on.append(_HandedOn(arrival_us, until_us, images))

    def ahead_us(self, now: int) -> float:
        """The time that the encoder needs for what it has not finished; 0 where its rate is not known."""
        states = list(self._states(now))
        rate = sum(state.rate for state in states)
        if not rate:
            self._handed_on.clear()
            return 0.0
        newest = max(state.newest_us for state in states)
        while self._handed_on and self._handed_on[0].is_past(newest, now):
            self._handed_on.popleft()
        waiting = sum(request.images for request in self._handed_on) * self._shares
        return min(_left_us(state, now) for state in states) + waiting / rate

    def _states(self, now: int) -> Iterator[State]:
        if now - self._searched_us >= SEARCH_US:
            self._searched_us = now
            found = {str(path) for path in self._pattern.parent.glob(self._pattern.name)}
            self._instances = {
                name: self._instances[name] if name in self._instances else _map(Path(name), mmap.ACCESS_READ)
                for name in found
            }
        return (State(*fields.tolist()) for fields in self._instances.values())


def _left_us(state: State, now: int) -> float:
    """What is left of the pass under way."""
    if not state.images or not state.rate:
        return 0.0
    return max(0.0, state.images / state.rate - (now - state.started_us))


def _map(path: Path, access: int) -> np.ndarray:
    flags = os.O_RDWR if access == mmap.ACCESS_WRITE else os.O_RDONLY
    descriptor = os.open(path, flags)
    try:
        return np.frombuffer(mmap.mmap(descriptor, 8 * FIELDS, access=access), np.float64)
    finally:
        os.close(descriptor)
