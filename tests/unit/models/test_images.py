import importlib.util
import io
import struct
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, CLIPImageProcessorPil
from transformers.image_utils import load_image

from clip_geometry import IMAGE_PROCESSORS, PILLOW, TORCHVISION, ProcessorSettings, crop_centre, resized_size
from clip_images import ImageDecoder
from clip_pillow import DEFAULT_FORMATS, ImageError, accepted_formats
from tests.helpers.odd_pictures import HEIGHT, ODD_PICTURES, WIDTH, heif_of_size, odd_picture
from tests.helpers.pictures import PICTURES, REFERENCE_WHITENS, TELLING, encode, noise, photos, varied_image

ALL_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
FORMATS = ALL_FORMATS[:7]
CLIP = ProcessorSettings(resize=224, resample=3, crop=(224, 224), image_processor=TORCHVISION)
REFERENCES = {TORCHVISION: CLIPImageProcessor, PILLOW: CLIPImageProcessorPil}
BOTH = pytest.mark.parametrize("kind", IMAGE_PROCESSORS)

OTHERS = [*TELLING, "rgb_transparent.png"] if REFERENCE_WHITENS else TELLING


def decoder(settings=CLIP, max_pixels=50_000_000, formats=FORMATS):
    return ImageDecoder(settings, formats, max_pixels)


def reference(encoded, kind=TORCHVISION, **options):
    processor = REFERENCES[kind](do_rescale=False, do_normalize=False, **options)
    assert processor.backend == {TORCHVISION: "torchvision", PILLOW: "pil"}[kind]
    image = load_image(Image.open(io.BytesIO(encoded)))
    return processor(images=[image], return_tensors="np")["pixel_values"][0]


@BOTH
@pytest.mark.parametrize("name", PICTURES)
def test_pixels_equal_transformers_bit_for_bit(name, kind):
    encoded = varied_image(name)
    pixels = decoder(replace(CLIP, image_processor=kind)).decode(encoded)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 224, 224)
    np.testing.assert_array_equal(pixels, reference(encoded, kind))


@BOTH
@pytest.mark.parametrize("name", ODD_PICTURES)
def test_odd_file_gives_the_pixels_of_transformers(name, kind):
    encoded = odd_picture(name)
    pixels = decoder(replace(CLIP, image_processor=kind), formats=ALL_FORMATS).decode(encoded)
    np.testing.assert_array_equal(pixels, reference(encoded, kind))


@pytest.mark.skipif(not REFERENCE_WHITENS, reason="this transformers does not turn transparent colours white")
def test_transparent_colour_is_made_white_strip_by_strip(monkeypatch):
    monkeypatch.setattr("clip_pillow.STRIP_PIXELS", 1000)
    encoded = varied_image("rgb_transparent.png")
    np.testing.assert_array_equal(decoder().decode(encoded), reference(encoded))


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (
            ProcessorSettings(336, 3, (336, 336)),
            {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
        ),
        (ProcessorSettings(224, 0, (224, 224)), {"resample": 0}),
        (ProcessorSettings(224, 1, (224, 224)), {"resample": 1}),
        (ProcessorSettings(224, 2, (224, 224)), {"resample": 2}),
        (
            ProcessorSettings((224, 224), 3, None),
            {"size": {"height": 224, "width": 224}, "do_center_crop": False},
        ),
        (ProcessorSettings(200, 3, (224, 224)), {"size": {"shortest_edge": 200}}),
        (
            ProcessorSettings(99, 3, (224, 149)),
            {"size": {"shortest_edge": 99}, "crop_size": {"height": 224, "width": 149}},
        ),
        (ProcessorSettings(None, 3, (224, 224)), {"do_resize": False}),
        (ProcessorSettings(224, 3, (224, 224), convert_rgb=False), {"do_convert_rgb": False}),
    ],
)
@BOTH
@pytest.mark.parametrize("name", OTHERS)
def test_processor_settings_are_applied(name, settings, options, kind):
    encoded = varied_image(name)
    pixels = decoder(replace(settings, image_processor=kind)).decode(encoded)
    np.testing.assert_array_equal(pixels, reference(encoded, kind, **options))


@pytest.mark.parametrize(("resample", "name"), [(4, "BOX"), (5, "HAMMING")])
def test_resampling_that_torch_lacks_is_rejected_with_the_cure(resample, name):
    settings = replace(CLIP, resample=resample)
    with pytest.raises(ValueError, match=rf"cannot resize with resample . \({name}\); .*=pillow"):
        decoder(settings)
    decoder(replace(settings, image_processor=PILLOW))


def test_settings_are_read_from_their_json_form():
    settings = {"resize": [200, 240], "resample": 3, "crop": [224, 224], "convert_rgb": True}
    read = ProcessorSettings.from_dict({**settings, "image_processor": PILLOW})
    assert read == ProcessorSettings((200, 240), 3, (224, 224))
    settings = {"resize": 224, "resample": 2, "crop": None, "convert_rgb": False}
    read = ProcessorSettings.from_dict({**settings, "image_processor": TORCHVISION})
    assert read == ProcessorSettings(224, 2, None, convert_rgb=False, image_processor=TORCHVISION)
    with pytest.raises(ValueError, match="'image_processor' must be torchvision or pillow, not 'PIL'"):
        ProcessorSettings.from_dict({**settings, "image_processor": "PIL"})


def test_crop_larger_than_the_image_is_padded_with_zeros():
    pixels = np.full((3, 8, 3), 9, np.uint8)
    cropped = np.asarray(crop_centre(Image.fromarray(pixels), (6, 4)))
    assert cropped.shape == (6, 4, 3)
    assert cropped[:, 0, 0].tolist() == [0, 0, 9, 9, 9, 0]


def test_longer_edge_is_rounded_down():
    assert resized_size(640, 427, CLIP) == (335, 224)
    assert resized_size(427, 640, CLIP) == (224, 335)


def test_empty_file_is_rejected():
    with pytest.raises(ImageError, match="is empty"):
        decoder().decode(b"")


@pytest.mark.parametrize("encoded", [b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\0" * 1000])
def test_file_that_is_no_image_is_rejected_with_the_accepted_formats(encoded):
    with pytest.raises(ImageError, match="is not an image in a format accepted here|cannot be decoded"):
        decoder().decode(encoded)


def test_format_outside_the_list_is_rejected():
    with pytest.raises(ImageError, match=r"format accepted here \(PNG\)"):
        ImageDecoder(CLIP, ("PNG",), 10**6).decode(encode(photos()[0], "JPEG"))


def test_unknown_format_in_the_settings_is_rejected():
    with pytest.raises(ValueError, match="cannot read: JPG"):
        ImageDecoder(CLIP, ("PNG", "JPG"), 10**6)


def heif_decoder(formats=ALL_FORMATS):
    return ImageDecoder(CLIP, formats, 50_000_000)


def test_turned_heic_is_turned_once():
    size = heif_decoder().open(odd_picture("HEIF turned 6")).size
    assert size == (WIDTH, HEIGHT)[::-1]
    pixels, upright = (
        heif_decoder().decode(odd_picture(f"HEIF {name}")).astype(int) for name in ("turned 6", "RGB")
    )
    assert 2 * np.abs(pixels - np.rot90(upright, -1, (1, 2))).mean() < np.abs(pixels - upright).mean()


def test_primary_picture_of_a_heic_is_used():
    first, second = (
        heif_decoder().decode(odd_picture(f"HEIF {name}"))
        for name in ("several pictures", "second picture first")
    )
    distance = np.abs(first[:, ::-1, ::-1].astype(int) - second).mean()
    assert 2 * distance < np.abs(first.astype(int) - second).mean()


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_heic_is_rejected(share):
    file = odd_picture("HEIF tiles")
    with pytest.raises(ImageError, match=f"truncated: it has [0-9]+ of {len(file)} bytes"):
        heif_decoder().decode(file[: int(len(file) * share)])


def test_heic_that_claims_a_huge_size_is_rejected_by_its_header():
    file = heif_of_size(20_000, 20_000)
    assert len(file) < 1000
    with pytest.raises(ImageError, match=r"is too large: the limit is 50000000 pixels \(max_image_pixels\)"):
        heif_decoder().decode(file)


@pytest.mark.parametrize("size", [(5000, 5000), (64, 32)])
def test_heic_of_another_size_than_it_claims_is_rejected(size):
    with pytest.raises(ImageError, match="Decoded image does not have the size signaled in the file"):
        heif_decoder().decode(heif_of_size(*size))


@pytest.fixture
def _without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_default_formats_have_heif_if_it_is_installed(monkeypatch):
    assert accepted_formats("auto") == [*DEFAULT_FORMATS, "HEIF"]
    assert accepted_formats("HEIF,PNG,AVIF") == ["PNG", "AVIF", "HEIF"]  # AVIF first: both may begin alike
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert accepted_formats("auto") == list(DEFAULT_FORMATS)


@pytest.mark.usefixtures("_without_heif")
def test_heif_that_is_named_but_not_installed_is_an_error():
    with pytest.raises(ValueError, match="names HEIF, but pillow-heif is not installed; .*pip install"):
        heif_decoder()


@pytest.mark.usefixtures("_without_heif")
@pytest.mark.parametrize("name", ["RGB", "several pictures", "general brand"])
def test_heic_where_it_is_not_installed_is_rejected_with_the_cure(name):
    with pytest.raises(ImageError, match="is a HEIC file, and the server lacks pillow-heif; .*pip install"):
        heif_decoder(DEFAULT_FORMATS).decode(odd_picture(f"HEIF {name}"))
    assert heif_decoder(DEFAULT_FORMATS).decode(odd_picture("AVIF general brand")).shape == (3, 224, 224)


def test_heic_where_it_is_not_accepted_is_rejected_with_the_formats():
    with pytest.raises(ImageError, match=r"not an image in a format accepted here \(JPEG, PNG\)"):
        heif_decoder(("JPEG", "PNG")).decode(odd_picture("HEIF RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_file_is_rejected_or_equals_the_reference(kind, share):
    encoded = encode(photos()[1].resize((320, 240)), kind)
    cut = encoded[: int(len(encoded) * share)]
    try:
        pixels = decoder().decode(cut)
    except ImageError as error:
        assert "decoded" in str(error) or "format" in str(error)
    else:
        np.testing.assert_array_equal(pixels, reference(cut))


def test_half_a_jpeg_is_rejected():
    encoded = encode(photos()[0], "JPEG")
    with pytest.raises(ImageError, match="truncated or damaged"):
        decoder().decode(encoded[: len(encoded) // 2])


def png_header(width, height):
    """Return a decompression bomb: a PNG with this size in its header and hardly any data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(1001, 1000), (1500, 1000), (30_000, 30_000)])
def test_decompression_bomb_is_rejected_by_its_header(size):
    with pytest.raises(ImageError, match="is too large.*limit is 1000000"):
        decoder(max_pixels=1_000_000).decode(png_header(*size))


def test_extreme_aspect_ratio_is_rejected_by_its_resized_size():
    with pytest.raises(ImageError, match="224000 x 224 pixels once resized, the limit is 1000000"):
        decoder(max_pixels=1_000_000).decode(encode(noise(3000, 3), "PNG"))
    assert decoder(max_pixels=1_000_000).decode(encode(noise(300, 30), "PNG")).shape == (3, 224, 224)


def test_pixels_are_written_to_the_given_array():
    target = np.zeros((2, 3, 224, 224), np.uint8)
    encoded = encode(photos()[0], "JPEG")
    assert decoder().decode(encoded, target[1]).base is target
    np.testing.assert_array_equal(target[1], reference(encoded))
    assert not target[0].any()


def progressive(extra_scans):
    """Return a JPEG that repeats its last scan."""
    encoded = encode(noise(64, 64), "JPEG", progressive=True)
    start = encoded.rindex(b"\xff\xda")
    return encoded[:-2] + encoded[start:-2] * extra_scans + encoded[-2:]


def test_jpeg_with_too_many_scans_is_rejected_before_decoding():
    assert decoder().decode(progressive(50)).shape == (3, 224, 224)
    with pytest.raises(ImageError, match="has more than 100 JPEG scans, the limit; re-encode it"):
        decoder().decode(progressive(5000))


def test_scan_markers_in_another_format_are_ignored():
    picture = Image.new("RGB", (300, 1), (0xFF, 0xDA, 0xFF))
    assert decoder().decode(encode(picture.resize((300, 300)), "BMP")).shape == (3, 224, 224)


def test_error_does_not_keep_the_half_decoded_image_alive():
    encoded = encode(noise(200, 200), "PNG")
    with pytest.raises(ImageError, match="truncated or damaged") as caught:
        decoder().decode(encoded[: len(encoded) // 2])
    assert caught.value.__cause__ is caught.value.__context__ is None
    frames = [entry.frame for entry in caught.traceback]
    assert not [
        value for frame in frames for value in frame.f_locals.values() if isinstance(value, Image.Image)
    ]
