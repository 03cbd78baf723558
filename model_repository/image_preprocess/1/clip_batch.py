"""The images of all request groups of a dynamic batch, decoded at once by a pool of threads.

Each thread writes to its place in the output of the group, so that no image is copied once more. Knows
nothing of Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from clip_common.groups import Elements, Outputs, RequestError, element
from clip_common.times import Times, now_us
from clip_images import ImageError

Decode = Callable[[bytes, "np.ndarray | None"], np.ndarray]
"""As `ImageDecoder.decode`."""


class GpuDecoder(Protocol):
    """Decodes many images at once, and leaves those alone that it cannot decode."""

    def decode(self, files: Sequence[bytes], pool: ThreadPoolExecutor) -> list[np.ndarray | None]:
        """Gives for each file its uint8 [3, height, width], or None."""


class BatchDecoder:
    """Decodes request groups.

    Args:
        decode: Decodes one image.
        output_size: (height, width) of every decoded image, or None where it depends on the image.
        threads: Images decoded at once.
        gpu: Is handed all images first; what it leaves goes to `decode`.
    """

    def __init__(
        self, decode: Decode, output_size: tuple[int, int] | None, threads: int, gpu: GpuDecoder | None = None
    ) -> None:
        self._decode, self._output_size, self._gpu = decode, output_size, gpu
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def run(self, groups: list[Elements]) -> list[Outputs | Exception]:
        """Gives each group's `pixel_values`, uint8 [rows, images, 3, height, width], or its error."""
        outputs = [self._allocate(len(group.items)) for group in groups]
        files = [file for group in groups for file in group.items]
        places = [place for output in outputs for place in output]
        starts = [start for group in groups for start in [_Start(group.times)] * len(group.items)]
        decoded = iter(self._decode_all(files, places, starts))
        return [
            _join(group, [next(decoded) for _ in group.items], output)
            for group, output in zip(groups, outputs, strict=True)
        ]

    def _allocate(self, count: int) -> np.ndarray | list[None]:
        if self._output_size is None:
            return [None] * count
        return np.empty((count, 3, *self._output_size), np.uint8)

    def _decode_all(
        self, files: list[bytes], places: list[np.ndarray | None], starts: list[_Start]
    ) -> Iterator[np.ndarray | Exception]:
        gpu = self._gpu.decode(files, self._pool) if self._gpu else [None] * len(files)
        return self._pool.map(self._decode_one, files, places, gpu, starts)

    def _decode_one(
        self, file: bytes, place: np.ndarray | None, from_gpu: np.ndarray | None, start: _Start
    ) -> np.ndarray | Exception:
        try:
            start.check()
            if from_gpu is None:
                return self._decode(file, place)
            if place is None:
                return from_gpu
            place[...] = from_gpu
            return place
        except Exception as error:
            return error


class _Start:
    """Refuses a group whose first image's turn comes too late; a group once begun is finished."""

    def __init__(self, times: Times) -> None:
        self._times, self._begun = times, False

    def check(self) -> None:
        if not self._begun:
            self._times.check(now_us())
            self._begun = True


def _join(
    group: Elements, decoded: list[np.ndarray | Exception], output: np.ndarray | list[None]
) -> Outputs | Exception:
    images: list[np.ndarray] = []
    for position, image in enumerate(decoded):
        if isinstance(image, ImageError):
            return RequestError(f"{element('image', position, group.shape)} {image}")
        if isinstance(image, Exception):
            return image
        if images and image.shape != images[0].shape:
            return RequestError(
                f"{element('image', position, group.shape)} has {_size(image)} pixels where the first has "
                f"{_size(images[0])}, and this checkpoint crops none; send them one by one"
            )
        images.append(image)
    pixels = output if isinstance(output, np.ndarray) else np.stack(images)
    return {"pixel_values": pixels.reshape(*group.shape, *pixels.shape[1:])}


def _size(image: np.ndarray) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def threads_of_instance(groups: Sequence[Mapping[str, Any]], cores: int) -> int:
    """The cores divided among a model's instances, at least one.

    Args:
        groups: `instance_group` of the model configuration.
        cores: That the process may use.
    """
    instances = sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", ()))) for group in groups)
    return max(1, cores // max(1, instances))
