"""Encoders that run any number of images through the vision tower, in passes of bounded size.

On a GPU a pass is one CUDA graph, so that its hundred kernels cost one launch. The images of all requests go
through a pinned buffer, with one copy to the device and one copy back. While one pass computes, the next one
is staged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from clip_common.tower import pass_slices

MIN_GRAPH_COSINE = 0.999
"""Least cosine between the embeddings of captured passes and those of float32."""
SAMPLE_IMAGES = 16
"""Different images of each kind that captured passes are checked with."""
Forward = Callable[[torch.Tensor], torch.Tensor]
"""The tower: uint8 [n, 3, size, size] -> float32 [n, dim], unit L2 norm."""


class Encoder(Protocol):
    """Interface of the encoders."""

    def encode(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """Encode uint8 [n_i, 3, size, size] each -> float32 [sum(n_i), dim], unit L2 norm."""


class DirectEncoder:
    """Encodes by calling the tower directly, without CUDA graphs.

    Args:
        forward: The tower.
        device: The tower's device.
        max_bucket: Images in the largest pass.
    """

    def __init__(self, forward: Forward, device: torch.device, max_bucket: int) -> None:
        self._forward, self._device, self._max_bucket = forward, device, max_bucket

    @torch.inference_mode()
    def encode(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """Encode uint8 [n_i, 3, size, size] each -> float32 [sum(n_i), dim], unit L2 norm."""
        passes = [
            self._forward(torch.from_numpy(_join(groups, part)).to(self._device))
            for part in pass_slices(sum(map(len, groups)), self._max_bucket)
        ]
        return torch.cat(passes).cpu().numpy()


def _join(groups: Sequence[np.ndarray], part: slice) -> np.ndarray:
    """Join the images of one pass; they are copied only if several groups contribute."""
    pieces, start = [], 0
    for group in groups:
        piece = group[max(part.start - start, 0) : max(part.stop - start, 0)]
        if len(piece):
            pieces.append(piece)
        start += len(group)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class CapturedPass(NamedTuple):
    """A recorded pass of a fixed size."""

    replay: Callable[[], None]
    embeds: torch.Tensor
    """float32 [size, dim] on the device, the result of the last `replay`."""


Capture = Callable[[Forward, torch.Tensor], CapturedPass]
"""Records the pass over a tensor; each replay reads the tensor again, which by then holds other images."""


def cuda_graph(forward: Forward, pixels: torch.Tensor, pool: Any) -> CapturedPass:
    """Capture the pass over `pixels` as one CUDA graph.

    Args:
        forward: The tower.
        pixels: uint8 [size, 3, side, side] on the GPU, the input of every replay.
        pool: Memory shared by graphs that are never replayed at the same time.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries select and initialise their kernels before the capture
        for _ in range(2):
            forward(pixels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        embeds = forward(pixels)
    return CapturedPass(graph.replay, embeds)


def graph_sizes(largest: int) -> list[int]:
    """Return the sizes of the passes to capture: powers of two up to 8, then eighths of the largest.

    Example: 1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64.
    """
    step = max(8, largest // 8)
    small = [size for size in (1, 2, 4) if size < largest]
    return [
        *small,
        *(size for size in range(8, step, 8) if size < largest),
        *range(step, largest, step),
        largest,
    ]


class _Slot:
    """Host buffers of a pass in flight, pinned on a machine with a GPU."""

    def __init__(self, pixels: torch.Tensor, embeds: torch.Tensor) -> None:
        self._cuda = pixels.is_cuda
        self.pixels = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=self._cuda)
        self.embeds = torch.empty(embeds.shape, dtype=embeds.dtype, pin_memory=self._cuda)
        self._done = torch.cuda.Event() if self._cuda else None
        self.target: np.ndarray | None = None
        """Destination of the embeddings; None if no pass is in flight."""

    def record(self, target: np.ndarray) -> None:
        """Record that a pass was launched."""
        self.target = target
        if self._done is not None:
            self._done.record()

    def collect(self) -> None:
        """Wait for the pass in flight, if any, and copy its embeddings to their destination."""
        if self.target is None:
            return
        if self._done is not None:
            self._done.synchronize()
        self.target[:] = self.embeds[: len(self.target)].numpy()
        self.target = None


class GraphEncoder:
    """Encodes on a GPU by replaying captured passes, each time the smallest that holds the images.

    Args:
        forward: The tower.
        device: The tower's device.
        max_bucket: Images in the largest pass.
        side: Height and width of an image.
        capture: Records a pass; None records a CUDA graph.

    Attributes:
        sizes: Images of each captured pass, ascending.
    """

    @torch.inference_mode()
    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        max_bucket: int,
        side: int,
        capture: Capture | None = None,
    ) -> None:
        if capture is None:
            capture = partial(cuda_graph, pool=torch.cuda.graph_pool_handle())
        self.sizes = graph_sizes(max_bucket)
        self._pixels = torch.zeros((max_bucket, 3, side, side), dtype=torch.uint8, device=device)
        self._passes = {size: capture(forward, self._pixels[:size]) for size in reversed(self.sizes)}
        self._slots = [_Slot(self._pixels, self._passes[max_bucket].embeds) for _ in range(2)]

    @torch.inference_mode()
    def encode(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """Encode uint8 [n_i, 3, size, size] each -> float32 [sum(n_i), dim], unit L2 norm."""
        total, largest = sum(map(len, groups)), self.sizes[-1]
        result = np.empty((total, self._slots[0].embeds.shape[1]), np.float32)
        pieces = _pieces(groups, largest)
        for number, start in enumerate(range(0, total, largest)):
            slot = self._slots[number % 2]
            slot.collect()
            count = min(largest, total - start)
            filled = 0
            while filled < count:
                piece = next(pieces)
                slot.pixels.numpy()[filled : filled + len(piece)] = piece
                filled += len(piece)
            self._launch(slot, count, result[start : start + count])
        for slot in self._slots:
            slot.collect()
        return result

    def _launch(self, slot: _Slot, count: int, target: np.ndarray) -> None:
        captured = self._passes[self.sizes[bisect_left(self.sizes, count)]]
        self._pixels[:count].copy_(slot.pixels[:count], non_blocking=True)
        captured.replay()
        slot.embeds[:count].copy_(captured.embeds[:count], non_blocking=True)
        slot.record(target)


def _pieces(groups: Sequence[np.ndarray], largest: int) -> Iterator[np.ndarray]:
    """Yield the groups in order, split at the boundaries of passes of `largest` images."""
    position = 0
    for group in groups:
        start = 0
        while start < len(group):
            piece = group[start : start + largest - position % largest]
            yield piece
            start += len(piece)
            position += len(piece)


def checked_graphs(
    wanted: torch.dtype,
    build: Callable[[torch.dtype], GraphEncoder],
    exact: Encoder,
    side: int,
    warn: Callable[[str], None],
) -> tuple[GraphEncoder, torch.dtype]:
    """Return an encoder whose passes agree with float32, and its precision.

    Args:
        wanted: The precision to try first, followed by bfloat16 and then float32, which is not checked.
        build: Captures the passes in a precision.
        exact: Encodes in float32 without graphs.
        side: Height and width of an image.
        warn: Logs each precision that is not used.
    """
    for dtype in dict.fromkeys((wanted, torch.bfloat16)):
        if wanted == torch.float32:
            break
        encoder = build(dtype)
        cosine = least_cosine(encoder, exact, side)
        if cosine >= MIN_GRAPH_COSINE:
            return encoder, dtype
        warn(
            f"the vision tower in {str(dtype).removeprefix('torch.')} is not used: its least cosine to "
            f"float32 is {cosine:.6f}, the limit is {MIN_GRAPH_COSINE}"
        )
    return build(torch.float32), torch.float32


def least_cosine(encoder: GraphEncoder, exact: Encoder, side: int) -> float:
    """Return the least cosine between the embeddings of two encoders, or NaN if one is not finite.

    Every captured pass encodes noise and pictures with the spectrum of photographs.
    """
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (SAMPLE_IMAGES, 3, side, side), dtype=np.uint8)
    cosines = []
    for samples in (noise, _photographs(random, side)):
        images = samples[np.arange(encoder.sizes[-1]) % SAMPLE_IMAGES]
        expected = exact.encode([images])
        for size in encoder.sizes:
            found = encoder.encode([images[:size]])
            cosines.append((found * expected[:size]).sum(axis=1).min())
    return float(np.min(cosines))


def _photographs(random: np.random.Generator, side: int) -> np.ndarray:
    """Return uint8 [SAMPLE_IMAGES, 3, side, side] with random phases and an amplitude of 1 / frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    phases = np.exp(2j * np.pi * random.random((SAMPLE_IMAGES, 3, *frequency.shape)))
    pictures = np.fft.irfft2(phases / np.maximum(frequency, 1 / side), (side, side))
    return (128 + 50 * pictures / pictures.std()).clip(0, 255).astype(np.uint8)
