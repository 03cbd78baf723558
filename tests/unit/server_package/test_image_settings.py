"""Image settings of all classes and forms: read as transformers reads them, or rejected by name."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

from clip_geometry import PILLOW, TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from tests.helpers.pictures import encode, noise
from tritonclip._images import preprocess
from tritonclip_server.repository.checkpoint_files import CheckpointError, CheckpointFiles
from tritonclip_server.repository.image_settings import (
    FILE,
    INTERPOLATIONS,
    NESTED_FILE,
    check_image_processor,
    read_image_settings,
)

SIDE = 56
SQUARE = {"height": SIDE, "width": SIDE}
CLIP = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
VIT = {"feature_extractor_type": "ViTFeatureExtractor", "size": SIDE}
OPENAI = {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIDE, "crop_size": SIDE}

EQUAL_FORMS = {
    "CLIP": CLIP,
    "OpenAI's files: sizes are numbers": OPENAI | {"do_resize": True, "do_center_crop": True, "resample": 3},
    "no class": {"size": SIDE, "crop_size": SIDE},
    "class of the fast processor": CLIP | {"image_processor_type": "CLIPImageProcessorFast"},
    "ViT: squashed, not cropped": VIT,
    "ViT, sizes as a list": VIT | {"size": [SIDE, SIDE]},
    "SigLIP: squashed, not cropped": {"image_processor_type": "SiglipImageProcessor", "size": SQUARE},
    "DeiT: squashed, then cropped": {
        "image_processor_type": "DeiTImageProcessor",
        "size": 64,
        "crop_size": SIDE,
    },
    "fixed size": CLIP | {"size": {"height": SIDE, "width": SIDE}},
    "shortest edge larger than the crop": CLIP | {"size": {"shortest_edge": 64}},
    "shortest edge smaller than the crop": CLIP | {"size": {"shortest_edge": 40}},
    "squashed to another ratio, then cropped": CLIP | {"size": {"height": 60, "width": 90}},
    "crop only": CLIP | {"do_resize": False},
    "no padding needed": VIT | {"do_pad": True},
    "nearest pixel": CLIP | {"resample": 0},
    "Lanczos": CLIP | {"resample": 1},
    "Hamming": CLIP | {"resample": 5},
    "null for false": CLIP | {"do_center_crop": None, "do_normalize": None, "size": SQUARE},
    "one number for all channels": CLIP | {"image_mean": 0.5, "image_std": 0.25},
    "no normalisation": CLIP | {"do_normalize": False},
    "no rescaling": CLIP | {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60, 61, 62]},
    "other factor": CLIP | {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
    "code on the hub": CLIP | {"auto_map": {"AutoImageProcessor": "processor.Processor"}},
}
REJECTED_FORMS = {
    "longest edge": (
        {"size": {"longest_edge": SIDE}},
        "size is {'longest_edge': 56}; supported are height and",
    ),
    "both edges": ({"size": {"shortest_edge": SIDE, "longest_edge": 99}}, "size is {'longest_edge': 99, "),
    "largest sides": ({"size": {"max_height": SIDE, "max_width": SIDE}}, "size is {'max_height': 56, "),
    "numbers of pixels": ({"size": {"min_pixels": 1, "max_pixels": 9}}, "size is {'min_pixels': 1, "),
    "unknown size": ({"size": {"edge": SIDE}}, "no readable preprocessor_config.json (size must have one of"),
    "short list": ({"size": [SIDE]}, "no readable preprocessor_config.json"),
    "size 0": ({"size": {"shortest_edge": 0}}, "size is {'shortest_edge': 0}; a size must be a whole number"),
    "huge size": ({"size": {"shortest_edge": 10**6}}, "a size must be a whole number from 1 to 8192"),
    "fraction": ({"size": {"shortest_edge": 56.5}}, "56.5}; a size must be a whole number from 1 to 8192"),
    "crop -1": ({"crop_size": -1}, "crop_size is {'height': -1, 'width': -1}; a size must be"),
    "crop by an edge": (
        {"crop_size": {"shortest_edge": SIDE}},
        "crop_size is {'shortest_edge': 56}; supported are",
    ),
    "other crop": (
        {"crop_size": 64},
        "'width': 64}; the vision tower takes images of 56 x 56 pixels (config",
    ),
    "oblong crop": ({"crop_size": {"height": 56, "width": 48}}, "the vision tower takes images of 56 x 56"),
    "other size, no crop": (
        {"do_center_crop": False, "size": SIDE + 1},
        "size is {'shortest_edge': 57}; the vision",
    ),
    "other fixed size, no crop": (
        {"do_center_crop": False, "size": {"height": 56, "width": 64}},
        "size is {'height': 56, 'width': 64}; the vision tower takes images of 56 x 56",
    ),
    "neither resize nor crop": (
        {"do_resize": False, "do_center_crop": False},
        "do_resize is False; without do_center_crop, images would keep their sizes",
    ),
    "padding": ({"do_pad": True, "pad_size": {"height": 64, "width": 64}}, "do_pad is True; padding is not"),
    "padding of the batch": ({"do_pad": True, "do_center_crop": False}, "do_pad is True; padding is not"),
    "standard deviation 0": ({"image_std": [0.2, 0, 0.2]}, "image_std is (0.2, 0, 0.2); it must be greater"),
    "tiny standard deviation": (
        {"image_std": [0.2, 1e-30, 0.2]},
        "and 1e-30) give pixel values of more than",
    ),
    "huge mean": ({"image_mean": [10**400, 0, 0]}, "image_mean is "),
    "mean NaN": ({"image_mean": float("nan")}, "image_mean is nan; it must be a number or three numbers"),
    "two channels": ({"image_mean": [0.5, 0.5]}, "image_mean is (0.5, 0.5); it must be a number or three"),
    "mean as text": ({"image_mean": "0.5"}, "image_mean is 0.5; it must be a number or three numbers"),
    "factor 0": ({"rescale_factor": 0}, "rescale_factor is 0; it must be a number other than 0"),
    "factor infinite": ({"rescale_factor": float("inf")}, "rescale_factor is inf; it must be a number"),
    "unknown resampling": ({"resample": 6}, "resample is 6; it must be a whole number from 0 to 5"),
    "resampling by name": ({"resample": "bicubic"}, "resample is bicubic; it must be a whole number"),
    "flag as text": ({"do_center_crop": "false"}, "do_center_crop is false; it must be true or false"),
    "no resampling": ({"resample": None}, "resample is None; it must be a whole number from 0 to 5"),
    "no mean": ({"image_mean": None}, "image_mean is None; it must be a number or three numbers"),
    "unknown class": (
        {"image_processor_type": "SomeProcessor"},
        "(transformers has no image_processor_type 'SomeProcessor')",
    ),
    "steps of another model": (
        {"image_processor_type": "ConvNextImageProcessor"},
        "selects the image processor ConvNextImageProcessor, which has steps of another model; supported",
    ),
    "processor of patches": ({"image_processor_type": "Qwen2VLImageProcessor"}, "has steps of another model"),
}


@pytest.fixture
def files(tmp_path):
    """A checkpoint without weights, to which the test adds image settings."""
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    return CheckpointFiles("clip", "local", tmp_path, (), "")


@pytest.fixture(scope="module")
def pictures():
    return [encode(noise(*size), "PNG") for size in ((97, 61), (61, 97), (SIDE, SIDE), (30, 200))]


def write(files, name, settings):
    (files.directory / name).write_text(json.dumps(settings), encoding="utf-8")


def error_of(files):
    with pytest.raises(CheckpointError) as caught:
        read_image_settings(files, SIDE)
    text = str(caught.value)
    assert text.startswith("'clip'")
    assert "\n" not in text
    assert len(text) < 400
    return text


@pytest.mark.parametrize(("kind", "backend"), [(TORCHVISION, "torchvision"), (PILLOW, "pil")])
@pytest.mark.parametrize("form", EQUAL_FORMS)
def test_images_of_every_form_equal_transformers(form, files, pictures, kind, backend):
    write(files, FILE, EQUAL_FORMS[form])
    geometry, normalisation = read_image_settings(files, SIDE)
    if kind == TORCHVISION and geometry["resize"] and geometry["resample"] not in INTERPOLATIONS:
        with pytest.raises(CheckpointError, match="resample is . .*image_processor=pillow"):
            check_image_processor("clip", geometry, kind)
        return
    check_image_processor("clip", geometry, kind)
    processor = AutoImageProcessor.from_pretrained(files.directory, backend=backend, trust_remote_code=False)
    assert processor.backend == backend
    geometry["image_processor"] = kind
    server = ImageDecoder(ProcessorSettings.from_dict(geometry), ("PNG",), 10**7)
    client = preprocess.ProcessorSettings.from_json(json.dumps(geometry))
    mean, std = (np.array(normalisation[name])[:, None, None] for name in ("image_mean", "image_std"))
    for picture in pictures:
        image = load_image(Image.open(io.BytesIO(picture)))
        pixels = server.decode(picture)
        expected = processor([image], do_rescale=False, do_normalize=False, return_tensors="np").pixel_values[
            0
        ]
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(preprocess.preprocess_image(picture, 0, client), expected)
        normalised = (pixels * normalisation["rescale_factor"] - mean) / std
        np.testing.assert_allclose(
            normalised, processor([image], return_tensors="np").pixel_values[0], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", ["CLIP", "ViT"])
def test_former_class_name_selects_the_class(name, files):
    """Transformers 4 wrote such names, and transformers 5 does not know them."""
    write(files, FILE, {"image_processor_type": f"{name}FeatureExtractor", "size": SIDE, "crop_size": SIDE})
    former = read_image_settings(files, SIDE)
    write(files, FILE, {"image_processor_type": f"{name}ImageProcessor", "size": SIDE, "crop_size": SIDE})
    assert former == read_image_settings(files, SIDE)


@pytest.mark.parametrize("form", REJECTED_FORMS)
def test_setting_that_cannot_be_served_is_named(form, files):
    changes, message = REJECTED_FORMS[form]
    write(files, FILE, CLIP | changes)
    assert message in error_of(files)


def test_settings_in_the_file_of_the_processor_take_precedence(files):
    write(files, FILE, CLIP)
    write(files, NESTED_FILE, {"processor_class": "CLIPProcessor"})
    assert read_image_settings(files, SIDE)[0]["resample"] == 3
    write(files, NESTED_FILE, {"processor_class": "CLIPProcessor", "image_processor": CLIP | {"resample": 2}})
    assert read_image_settings(files, SIDE)[0]["resample"] == 2
    write(
        files, NESTED_FILE, {"processor_class": "CLIPProcessor", "image_processor": CLIP | {"crop_size": 9}}
    )
    assert "processor_config.json: crop_size is" in error_of(files)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"size": [', "\x00"])
def test_damaged_file_is_reported(content, files):
    (files.directory / FILE).write_text(content)
    assert "has no readable preprocessor_config.json" in error_of(files)
