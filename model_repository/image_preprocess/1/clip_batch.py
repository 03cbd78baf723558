"""Decoding of all request groups of a dynamic batch at once, by a pool of threads.

Each thread writes its image directly into the group's output array, which saves a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clip_common.groups import Elements, Outcome, RequestError, element_name
from clip_pillow import ImageError
from clip_work import RequestWork, SkippedError, WorkLimits, out_of_memory

Decode = Callable[[bytes, "np.ndarray | None", RequestWork], np.ndarray]
"""Signature of `BoundedDecoder.decode`."""


class BatchDecoder:
    """Decodes request groups.

    Args:
        decode: Decodes one image.
        output_size: (height, width) of every decoded image, or None if it depends on the image.
        threads: Images to decode at once.
        limits: Limits on the work of a request.
    """

    def __init__(
        self,
        decode: Decode,
        output_size: tuple[int, int] | None,
        threads: int,
        limits: WorkLimits,
    ) -> None:
        self._decode, self._output_size, self._limits = decode, output_size, limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def run(self, groups: list[Elements]) -> list[Outcome]:
        """Return the `pixel_values` of each group, uint8 [rows, images, 3, height, width], or its error."""
        outputs = [self._allocate(len(group.items)) for group in groups]
        files = [file for group in groups for file in group.items]
        targets = [target for output in outputs for target in output]
        works = [work for group in groups for work in [RequestWork(group, self._limits)] * len(group.items)]
        decoded = self._pool.map(self._decode_one, files, targets, works)
        return [
            _assemble(group, [next(decoded) for _ in group.items], output)
            for group, output in zip(groups, outputs, strict=True)
        ]

    def _allocate(self, count: int) -> np.ndarray | list[None]:
        if self._output_size is None:
            return [None] * count
        return np.empty((count, 3, *self._output_size), np.uint8)

    def _decode_one(
        self, file: bytes, target: np.ndarray | None, work: RequestWork
    ) -> np.ndarray | Exception:
        try:
            work.begin_image()
            return self._decode(file, target, work)
        except MemoryError:
            work.fail()
        except Exception as error:
            work.fail()
            return error
        # A new error, because the frames of the first one keep the half-decoded image alive.
        return out_of_memory()


def _assemble(
    group: Elements, decoded: list[np.ndarray | Exception], output: np.ndarray | list[None]
) -> Outcome:
    images: list[np.ndarray] = []
    for position, image in enumerate(decoded):
        if isinstance(image, SkippedError):
            continue
        if isinstance(image, ImageError):
            return RequestError(f"{element_name('image', position, group.shape)} {image}")
        if isinstance(image, Exception):
            return image
        if images and image.shape != images[0].shape:
            return RequestError(
                f"{element_name('image', position, group.shape)} has {_format_size(image)} pixels, the first "
                f"has {_format_size(images[0])}, and this checkpoint does not crop; send them one by one"
            )
        images.append(image)
    pixels = output if isinstance(output, np.ndarray) else np.stack(images)
    return {"pixel_values": pixels.reshape(*group.shape, *pixels.shape[1:])}


def _format_size(image: np.ndarray) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def threads_per_instance(groups: Sequence[Mapping[str, Any]], cores: int) -> int:
    """Divide the cores among the instances of a model, with at least one thread for each.

    Args:
        groups: `instance_group` of the model configuration.
        cores: Cores that the process may use.
    """
    instances = sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", ()))) for group in groups)
    return max(1, cores // max(1, instances))
