"""Image settings of a checkpoint, as transformers' `AutoImageProcessor` reads them.

Image processors of several classes share one pipeline, with other defaults: resize, crop the centre, rescale
and normalise. The servers reproduce that pipeline. Settings that ask for other steps are rejected by name.
"""

from __future__ import annotations

from pathlib import Path
from sys import float_info
from typing import Any

from PIL.Image import Resampling

from tritonclip_server.repository.checkpoint_files import CheckpointError, CheckpointFiles, first_line

NESTED_FILE, FILE = "processor_config.json", "preprocessor_config.json"
FORMER_SUFFIX = "FeatureExtractor"
STEPS = (
    "preprocess",
    "_preprocess_image_like_inputs",
    "_prepare_image_like_inputs",
    "process_image",
    "convert_to_rgb",
    "_preprocess",
    "resize",
    "center_crop",
    "rescale",
    "normalize",
    "pad",
)
"""Methods of a processor that change pixels."""
FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad")
RESAMPLING = range(6)
"""Values of `PIL.Image.Resampling`."""
TORCHVISION, PILLOW = "torchvision", "pillow"
IMAGE_PROCESSORS = (TORCHVISION, PILLOW)
"""Values of the parameter `image_processor`: transformers' image processors, by the library that resizes."""
INTERPOLATIONS = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Modes of `torch.nn.functional.interpolate` by values of `resample`; torchvision has none for the others."""
LONGEST_EDGE = 8192
"""Limit on a size in pixels; every image would be larger than the limit on pixels of the server."""
LARGEST_PIXEL = 1e6
"""Limit on normalised pixel values, which are within -3 and 3 in trained checkpoints."""


def read_image_settings(files: CheckpointFiles, side: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read and check the image settings.

    Args:
        files: The checkpoint.
        side: Width and height of the images that the vision tower takes.

    Returns:
        The settings of the `image_preprocess` model, and the normalisation: `image_mean`, `image_std` and
        `rescale_factor`.

    Raises:
        CheckpointError: A setting is damaged, unknown, or gives images that the vision tower cannot take.
    """
    try:
        processor = load_image_processor(files.directory, backend="pil")
    except Exception as error:  # transformers raises many types on damaged settings
        raise CheckpointError(f"'{files.source}' has no readable {FILE} ({first_line(error)})") from error
    settings = _Settings(files, processor)
    return settings.geometry(side), settings.normalisation()


def check_image_processor(source: str, geometry: dict[str, Any], image_processor: str) -> None:
    """Check that an image processor can resize exactly as the settings of a checkpoint ask.

    Args:
        source: The checkpoint.
        geometry: The settings of the `image_preprocess` model.
        image_processor: One of `IMAGE_PROCESSORS`.

    Raises:
        CheckpointError: It cannot.
    """
    if image_processor == PILLOW or geometry["resize"] is None:
        return
    resample = geometry["resample"]
    reason = "has no such resampling"
    if resample in INTERPOLATIONS:
        import torch

        try:
            torch.nn.functional.interpolate(
                torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
                (4, 4),
                mode=INTERPOLATIONS[resample],
                antialias=resample != Resampling.NEAREST,
            )
            return
        except (NotImplementedError, ValueError):
            reason = f"needs a newer torch than {torch.__version__} for it"
    raise CheckpointError(
        f"'{source}': resample is {resample} ({Resampling(resample).name}), and image_processor=torchvision "
        f"{reason}; add --set image_preprocess.image_processor=pillow"
    )


def load_image_processor(directory: Path | str, backend: str | None = None) -> Any:
    """Load an image processor as `AutoImageProcessor` does, also by a class name of transformers 4.

    Args:
        directory: A directory in Hugging Face format, or a hub id.
        backend: "pil" for Pillow; None prefers torchvision if it is installed.
    """
    from transformers import AutoImageProcessor
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    settings, _ = ImageProcessingMixin.get_image_processor_dict(directory)
    name = str(settings.get("image_processor_type") or "CLIPImageProcessor").removesuffix("Fast")
    known = name.removesuffix(FORMER_SUFFIX) + "ImageProcessor" if name.endswith(FORMER_SUFFIX) else name
    kind = get_image_processor_class_from_name(known + "Pil") or get_image_processor_class_from_name(known)
    if kind is None:
        raise ValueError(f"transformers has no image_processor_type '{name[:100]}'")
    if known != name:
        return kind.from_pretrained(directory)
    return AutoImageProcessor.from_pretrained(directory, backend=backend, trust_remote_code=False)


class _Settings:
    """The settings of an image processor.

    Args:
        files: The checkpoint.
        processor: Its image processor.
    """

    def __init__(self, files: CheckpointFiles, processor: Any) -> None:
        nested = (files.directory / NESTED_FILE).is_file()
        nested = nested and "image_processor" in files.read_json(NESTED_FILE)
        self._place = f"'{files.source}': {NESTED_FILE if nested else FILE}"
        self._processor = processor
        self._check_steps()
        for name in FLAGS:
            if getattr(processor, name) not in (True, False, None):
                raise self._error(name, "it must be true or false")

    def geometry(self, side: int) -> dict[str, Any]:
        """Return the settings of `image_preprocess`, for a tower of images of `side` x `side` pixels."""
        processor = self._processor
        resize = self._resize() if processor.do_resize else None
        crop = self._height_and_width("crop_size") if processor.do_center_crop else None
        resample = processor.resample if processor.do_resize else RESAMPLING[0]
        if not isinstance(resample, int) or resample not in RESAMPLING:
            raise self._error("resample", f"it must be a whole number from 0 to {RESAMPLING[-1]}")
        self._check_side(side, resize, crop)
        return {
            "resize": resize,
            "resample": int(resample),
            "crop": crop,
            "convert_rgb": bool(processor.do_convert_rgb),
        }

    def normalisation(self) -> dict[str, Any]:
        """Return mean, standard deviation and factor of the pixels, of which the last comes first."""
        processor = self._processor
        mean, std = [0.0] * 3, [1.0] * 3
        if processor.do_normalize:
            mean, std = self._channels("image_mean"), self._channels("image_std")
        if min(std) <= 0:
            raise self._error("image_std", "it must be greater than 0")
        factor = processor.rescale_factor if processor.do_rescale else 1.0
        if not _is_number(factor) or factor == 0:
            raise self._error("rescale_factor", "it must be a number other than 0")
        factor = float(factor)
        for m, s in zip(mean, std, strict=True):
            if not max(abs(m), abs(255 * factor - m)) < LARGEST_PIXEL * s:
                raise CheckpointError(
                    f"{self._place}: rescale_factor, image_mean and image_std ({factor}, {m} and {s}) give "
                    f"pixel values of more than {LARGEST_PIXEL:g}; correct them"
                )
        return {"image_mean": mean, "image_std": std, "rescale_factor": factor}

    def _check_steps(self) -> None:
        from transformers.image_processing_backends import PilBackend

        kind = type(self._processor)
        if any(getattr(kind, step, None) is not getattr(PilBackend, step) for step in STEPS):
            name = kind.__name__.removesuffix("Pil")
            raise CheckpointError(
                f"{self._place} selects the image processor {name}, which has steps of another model; "
                "supported are classes like CLIPImageProcessor, ViTImageProcessor and SiglipImageProcessor"
            )

    def _resize(self) -> list[int] | int:
        """Return [height, width], or the length of the shortest edge."""
        size = dict(self._processor.size)
        if size.keys() != {"shortest_edge"}:
            return self._height_and_width("size", or_edge=" or shortest_edge alone")
        return self._edge("size", size["shortest_edge"])

    def _height_and_width(self, name: str, or_edge: str = "") -> list[int]:
        size = dict(getattr(self._processor, name) or {})
        if size.keys() != {"height", "width"}:
            raise self._error(name, f"supported are height and width{or_edge}")
        return [self._edge(name, size["height"]), self._edge(name, size["width"])]

    def _edge(self, name: str, edge: object) -> int:
        if type(edge) is not int or not 1 <= edge <= LONGEST_EDGE:
            raise self._error(name, f"a size must be a whole number from 1 to {LONGEST_EDGE}")
        return edge

    def _check_side(self, side: int, resize: list[int] | int | None, crop: list[int] | None) -> None:
        """Reject settings whose images are of another size than the tower's, whatever is sent."""
        name, made = ("crop_size", crop) if crop else ("size", resize)
        if made is None:
            raise self._error("do_resize", "without do_center_crop, images would keep their sizes")
        if made not in (side, [side, side]):
            raise self._error(name, f"the vision tower takes images of {side} x {side} pixels (config.json)")
        if self._processor.do_pad:
            square = {"height": side, "width": side}
            if made != [side, side] or dict(self._processor.pad_size or square) != square:
                raise self._error("do_pad", "padding is not supported; crop instead")

    def _channels(self, name: str) -> list[float]:
        value = getattr(self._processor, name)
        values = [value] * 3 if _is_number(value) else value
        if (
            not isinstance(values, (list, tuple))
            or len(values) != 3
            or not all(_is_number(one) for one in values)
        ):
            raise self._error(name, "it must be a number or three numbers")
        return [float(one) for one in values]

    def _error(self, name: str, reason: str) -> CheckpointError:
        value = getattr(self._processor, name)
        if name in ("size", "crop_size") and value is not None:
            value = dict(value)
        return CheckpointError(f"{self._place}: {name} is {str(value)[:100]}; {reason}")


def _is_number(value: object) -> bool:
    """Return whether a value is a number that a float can hold, neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= float_info.max
