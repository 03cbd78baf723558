"""JPEG files decoded by nvJPEG and resized on a GPU; imported only where `jpeg_decoder` is `nvjpeg`.

The pixels are not bit by bit those of Pillow: the decoders round differently, and so do the resizers. What
nvJPEG does not take, or what may be damaged, is left to Pillow, which also words the errors.
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

from clip_geometry import ImageSettings, Turn, resized_size
from clip_images import check_scans, check_size

Decode = Callable[[Sequence[bytes]], Sequence[torch.Tensor]]
"""JPEG files to uint8 [3, height, width] on the device, not turned; raises where one cannot be decoded."""

_CALL_IMAGES = 64
_CALL_PIXELS = 1 << 28  # 0.8 GB of decoded pixels on the device
_END_OF_IMAGE = b"\xff\xd9"
_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


class Header(NamedTuple):
    """What a JPEG's header says."""

    turn: Turn
    pixels: int


def read_header(encoded: bytes, settings: ImageSettings, max_pixels: int) -> Header | None:
    """Reads a header without decoding; None for a file that is to be left to Pillow.

    Taken are whole baseline JPEGs of 8 bits, greyscale or YCbCr, within the limit of pixels.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            check_size(*image.size, settings, max_pixels)
            check_scans(encoded)
            if not encoded.endswith(_END_OF_IMAGE) or not _is_baseline(image):
                return None
            return Header(Turn.of(image), image.width * image.height)
    except Exception:  # Pillow raises nearly anything on damaged files
        return None


def _is_baseline(image: Image.Image) -> bool:
    info = image.info
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or "progressive" in info:
        return False
    # Three components are RGB where Adobe's marker says so or, without any marker, where they are named so.
    stored_as_rgb = info.get("adobe_transform", 1) == 0 or [part[0] for part in image.layer] == [*b"RGB"]  # type: ignore[attr-defined]
    return image.mode == "L" or not stored_as_rgb


def load_decoder(device: int) -> Decode:
    """Makes torchvision's nvJPEG decoder ready on a CUDA device, and tries it.

    Raises:
        ImportError: No torchvision.
        RuntimeError: No such device, or a torchvision without nvJPEG.
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


class NvJpeg:
    """Decodes, resizes and crops JPEG files on a device.

    Args:
        settings: What the checkpoint wants; bilinear or bicubic resizing.
        max_pixels: Limit on width x height, of a file and of its resized form.
        decode: See `Decode`.
        warn: Is told of the first failure, which may mean that the GPU is lost and every image slow.

    Raises:
        ValueError: Another way of resizing.
    """

    def __init__(
        self,
        settings: ImageSettings,
        max_pixels: int,
        decode: Decode,
        warn: Callable[[str], None],
    ) -> None:
        if settings.resize is not None and settings.resample not in _MODES:
            raise ValueError("it resizes bilinearly or bicubically only")
        self._settings, self._max_pixels, self._decode = settings, max_pixels, decode
        self._warn, self._warned = warn, False

    def decode(self, files: Sequence[bytes], pool: ThreadPoolExecutor) -> list[np.ndarray | None]:
        """Decodes what nvJPEG can decode.

        Args:
            files: Encoded images of any format.
            pool: Reads the headers.

        Returns:
            For each file its uint8 [3, height, width], or None where it is left to Pillow.
        """
        headers = list(pool.map(lambda file: read_header(file, self._settings, self._max_pixels), files))
        found: list[np.ndarray | None] = [None] * len(files)
        for part in _calls(headers):
            for index, pixels in self._decode_part(part, files, headers).items():
                found[index] = pixels
        return found

    def _decode_part(
        self, part: list[int], files: Sequence[bytes], headers: Sequence[Header | None]
    ) -> dict[int, np.ndarray]:
        """Decodes the files of these indices in one call; where that fails, each alone."""
        try:
            turns = [header.turn for index in part if (header := headers[index])]
            return dict(zip(part, self._run([files[index] for index in part], turns), strict=True))
        except Exception as error:
            if not self._warned:
                self._warned = True
                self._warn(f"nvJPEG refused a file, Pillow decodes it (told once): {error}")
            if len(part) == 1:
                return {}
            alone = [self._decode_part([index], files, headers) for index in part]
            return {index: pixels for one in alone for index, pixels in one.items()}

    @torch.inference_mode()
    def _run(self, files: Sequence[bytes], turns: Sequence[Turn]) -> list[np.ndarray]:
        decoded = self._decode(files)
        finished = [
            fit(upright(image, turn), self._settings) for image, turn in zip(decoded, turns, strict=True)
        ]
        joined = torch.cat([image.reshape(-1) for image in finished]).cpu().numpy()  # one copy for all
        ends = np.cumsum([image.numel() for image in finished])[:-1]
        return [
            pixels.reshape(image.shape)
            for pixels, image in zip(np.split(joined, ends), finished, strict=True)
        ]


def _calls(headers: Sequence[Header | None]) -> Iterator[list[int]]:
    """Cuts the files with a header into calls that a device has the memory for."""
    part: list[int] = []
    pixels = 0
    for index, header in enumerate(headers):
        if header is None:
            continue
        if part and (len(part) == _CALL_IMAGES or pixels + header.pixels > _CALL_PIXELS):
            yield part
            part, pixels = [], 0
        part.append(index)
        pixels += header.pixels
    if part:
        yield part


def upright(image: torch.Tensor, turn: Turn) -> torch.Tensor:
    """Turns uint8 [3, height, width] as its EXIF orientation asks."""
    if turn.swapped:
        image = image.transpose(1, 2)
    axes = [axis for axis, wanted in ((1, turn.flipped), (2, turn.mirrored)) if wanted]
    return image.flip(axes) if axes else image


def fit(image: torch.Tensor, settings: ImageSettings) -> torch.Tensor:
    """Resizes and crops uint8 [3, height, width] as Pillow does: along the rows, then along the columns."""
    if settings.resize is not None:
        width, height = resized_size(image.shape[2], image.shape[1], settings)
        image = _resize(image, (image.shape[1], width), settings)
        image = _resize(image, (height, width), settings)
    return image if settings.crop is None else _crop_centre(image, settings.crop)


def _resize(image: torch.Tensor, size: tuple[int, int], settings: ImageSettings) -> torch.Tensor:
    mode = _MODES[Image.Resampling(settings.resample)]
    resized = torch.nn.functional.interpolate(image[None].float(), size=size, mode=mode, antialias=True)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)


def _crop_centre(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    height, width = size
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    bottom, right = image.shape[1] - height - top, image.shape[2] - width - left
    # A negative margin cuts, a positive one fills up with zeros.
    return torch.nn.functional.pad(image, (-left, -right, -top, -bottom))
