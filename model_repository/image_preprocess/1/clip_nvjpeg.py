"""JPEG decoding with nvJPEG and resizing on a GPU; imported only if `jpeg_decoder` is `nvjpeg`.

The pixels differ slightly from Pillow's, because decoders and resizers round differently. Pillow decodes
files that nvJPEG does not support or that may be damaged, so that all error texts are Pillow's.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from clip_geometry import Orientation, ProcessorSettings, resized_size
from clip_pillow import check_scans, check_size
from clip_plain import plain_pixels

Decode = Callable[[Sequence[bytes]], Sequence[torch.Tensor]]
"""JPEG files to uint8 [3, height, width] on the device, not reoriented; raises if it cannot decode one."""

MAX_CALL_IMAGES = 64
MAX_CALL_PIXELS = 1 << 28
"""Limit of one call; its decoded pixels take 0.8 GB on the device."""
_END_OF_IMAGE = b"\xff\xd9"
_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


class Header(NamedTuple):
    """Orientation and size of a JPEG, from its header."""

    orientation: Orientation
    pixels: int


def read_header(encoded: bytes, settings: ProcessorSettings, max_pixels: int) -> Header | None:
    """Read the header of a file without decoding it; return None if Pillow must decode the file.

    nvJPEG decodes complete 8-bit baseline JPEGs, greyscale or YCbCr, within the limit of pixels.
    """
    if plain_pixels(encoded) is None:
        return None
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            check_size(*image.size, settings, max_pixels)
            check_scans(encoded)
            if not encoded.endswith(_END_OF_IMAGE) or not _is_baseline(image):
                return None
            return Header(Orientation.of(image), image.width * image.height)
    except Exception:  # Pillow raises nearly anything on damaged files
        return None


def _is_baseline(image: Image.Image) -> bool:
    info = image.info
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or "progressive" in info:
        return False
    # Three components are RGB if Adobe's marker says so, or without a marker if their names are R, G and B.
    stored_as_rgb = info.get("adobe_transform", 1) == 0 or [part[0] for part in image.layer] == [*b"RGB"]  # type: ignore[attr-defined]
    return image.mode == "L" or not stored_as_rgb


def load_nvjpeg(device: int) -> Decode:
    """Load torchvision's nvJPEG decoder for a CUDA device and decode a small image to test it.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: The device does not exist, or torchvision was built without nvJPEG.
    """
    vision = importlib.import_module("torchvision.io")
    mode = vision.ImageReadMode.RGB

    def decode(files: Sequence[bytes]) -> Sequence[torch.Tensor]:
        tensors = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        decoded: list[torch.Tensor] = vision.decode_jpeg(tensors, mode=mode, device=f"cuda:{device}")
        return decoded

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    decode([file.getvalue()])
    return decode


class NvJpegDecoder:
    """Decodes, resizes and crops JPEG files on a device.

    Args:
        settings: The checkpoint's settings, with bilinear or bicubic resizing.
        max_pixels: Limit on width x height, before and after resizing.
        decode: Decodes files; see `Decode`.
        warn: Logs the first failure. If the GPU is lost, Pillow decodes every image, which is slow.

    Raises:
        ValueError: The settings ask for another resampling method.
    """

    def __init__(
        self,
        settings: ProcessorSettings,
        max_pixels: int,
        decode: Decode,
        warn: Callable[[str], None],
    ) -> None:
        if settings.resize is not None and settings.resample not in _MODES:
            raise ValueError("nvjpeg supports bilinear and bicubic resizing only")
        self._settings, self._max_pixels, self._decode = settings, max_pixels, decode
        self._warn, self._warned = warn, False

    def decode(self, files: Sequence[bytes], pool: ThreadPoolExecutor) -> list[np.ndarray | None]:
        """Decode the files that nvJPEG supports.

        Args:
            files: Encoded images of any format.
            pool: Threads that read the headers.

        Returns:
            uint8 [3, height, width] for each file, or None if Pillow must decode it.
        """
        headers = list(pool.map(lambda file: read_header(file, self._settings, self._max_pixels), files))
        decoded: list[np.ndarray | None] = [None] * len(files)
        for part in _split_into_calls(headers):
            for index, pixels in self._decode_part(part, files, headers).items():
                decoded[index] = pixels
        return decoded

    def _decode_part(
        self, part: list[int], files: Sequence[bytes], headers: Sequence[Header | None]
    ) -> dict[int, np.ndarray]:
        """Decode the files at these indices in one call; if it fails, decode each alone."""
        try:
            orientations = [header.orientation for index in part if (header := headers[index])]
            return dict(zip(part, self._run([files[index] for index in part], orientations), strict=True))
        except Exception as error:
            if not self._warned:
                self._warned = True
                self._warn(f"nvJPEG failed to decode a file, Pillow decodes it (logged once): {error}")
            if len(part) == 1:
                return {}
            alone = [self._decode_part([index], files, headers) for index in part]
            return {index: pixels for one in alone for index, pixels in one.items()}

    @torch.inference_mode()
    def _run(self, files: Sequence[bytes], orientations: Sequence[Orientation]) -> list[np.ndarray]:
        finished = [
            fit(upright(image, orientation), self._settings)
            for image, orientation in zip(self._decode(files), orientations, strict=True)
        ]
        joined = torch.cat([image.reshape(-1) for image in finished]).cpu().numpy()  # a single copy
        ends = np.cumsum([image.numel() for image in finished])[:-1]
        return [
            pixels.reshape(image.shape)
            for pixels, image in zip(np.split(joined, ends), finished, strict=True)
        ]


def _split_into_calls(headers: Sequence[Header | None]) -> Iterator[list[int]]:
    """Split the files that have a header into calls that fit into the memory of a device."""
    part: list[int] = []
    pixels = 0
    for index, header in enumerate(headers):
        if header is None:
            continue
        if part and (len(part) == MAX_CALL_IMAGES or pixels + header.pixels > MAX_CALL_PIXELS):
            yield part
            part, pixels = [], 0
        part.append(index)
        pixels += header.pixels
    if part:
        yield part


def upright(image: torch.Tensor, orientation: Orientation) -> torch.Tensor:
    """Apply the EXIF orientation to uint8 [3, height, width]."""
    if orientation.swapped:
        image = image.transpose(1, 2)
    axes = [axis for axis, wanted in ((1, orientation.flipped), (2, orientation.mirrored)) if wanted]
    return image.flip(axes) if axes else image


def fit(image: torch.Tensor, settings: ProcessorSettings) -> torch.Tensor:
    """Resize and crop uint8 [3, height, width] like Pillow, first horizontally and then vertically."""
    if settings.resize is not None:
        width, height = resized_size(image.shape[2], image.shape[1], settings)
        image = _resize(image, (image.shape[1], width), settings)
        image = _resize(image, (height, width), settings)
    return image if settings.crop is None else _crop_centre(image, settings.crop)


def _resize(image: torch.Tensor, size: tuple[int, int], settings: ProcessorSettings) -> torch.Tensor:
    mode = _MODES[Image.Resampling(settings.resample)]
    resized = torch.nn.functional.interpolate(image[None].float(), size=size, mode=mode, antialias=True)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)


def _crop_centre(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    height, width = size
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    bottom, right = image.shape[1] - height - top, image.shape[2] - width - left
    # A negative margin crops, a positive one pads with zeros.
    return torch.nn.functional.pad(image, (-left, -right, -top, -bottom))
