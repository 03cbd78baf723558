"""The shipped checkpoint: its format, and its accuracy on pictures that training never saw."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.image_utils import load_image

from tests.helpers.servers import ROOT
from tritonclip_server.demo.drawing import draw_plain_digit
from tritonclip_server.demo.evaluation import DEFAULT_TEMPLATE, pair_task, run_task
from tritonclip_server.demo.samples import DIGIT_ROWS
from tritonclip_server.demo.scenes import HELD_OUT, digit_rows, load_glyphs
from tritonclip_server.repository.reference import Reference

DEMO = ROOT / "scripts" / "demo"
CHECKPOINT = DEMO / "checkpoint"
IMAGES = DEMO / "images"
MAX_BYTES = 8_000_000
SAMPLES = json.loads((IMAGES / "labels.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def reference():
    return Reference(CHECKPOINT)


def test_weights_are_float16_and_small():
    file = CHECKPOINT / "model.safetensors"
    assert file.stat().st_size <= MAX_BYTES
    with safe_open(file, "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]
    floats = [t for t in tensors if t.is_floating_point()]
    assert {t.dtype for t in floats} == {torch.float16}
    assert sum(t.numel() for t in floats) < 4_000_000
    assert all(t.isfinite().all() for t in floats)


def test_architecture_matches_the_model_card(reference):
    config = reference.model.config
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (224, 32)
    assert config.projection_dim == 512 and config.text_config.max_position_embeddings == 77
    assert config.vision_config.hidden_act == config.text_config.hidden_act == "quick_gelu"
    assert 1 < reference.logit_scale < 101


def test_special_tokens_of_model_and_tokenizer_agree(reference):
    text, tokenizer = reference.model.config.text_config, reference.tokenizer
    assert text.vocab_size == len(tokenizer)
    assert text.eos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert text.bos_token_id == tokenizer.bos_token_id


def test_image_processor_has_the_settings_of_clip(reference):
    processor = reference.image_processor
    assert processor.crop_size == {"height": 224, "width": 224} and processor.size == {"shortest_edge": 224}
    assert processor.resample == Image.Resampling.BICUBIC and processor.do_convert_rgb
    assert processor.image_mean == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_checkpoint_loads_without_warning(caplog):
    logger = logging.getLogger("transformers")  # does not propagate to the root logger
    logger.addHandler(caplog.handler)
    try:
        CLIPModel.from_pretrained(CHECKPOINT)
        CLIPProcessor.from_pretrained(CHECKPOINT)
        CLIPConfig(
            text_config={"vocab_size": 10}
        )  # warns about its default ids, which proves that the handler works
    finally:
        logger.removeHandler(caplog.handler)
    messages = [record.getMessage() for record in caplog.records]
    assert messages and all("between 0 and 9" in message for message in messages), messages


def test_padding_does_not_change_text_embedding(reference):
    pixels = reference.pixel_values([draw_plain_digit(0)])
    batches = ["red"], ["red", "a photo of two small blue stars"]
    alone, padded = (reference.forward(pixels, texts).text_embeds[0] for texts in batches)
    np.testing.assert_allclose(alone, padded, atol=1e-5, rtol=0)
    assert math.isclose(np.linalg.norm(alone), 1, abs_tol=1e-5)


def test_one_picture_of_each_held_out_pair_is_recognised_at_90_percent(reference):
    """All pictures and templates, and the digits, are in tests/system/demo."""
    task = replace(pair_task("held-out pairs", HELD_OUT, per_pair=1, seed=123), templates=(DEFAULT_TEMPLATE,))
    (result,) = run_task(reference, task)
    assert (result.pictures, result.labels) == (20, 100)
    assert result.accuracy >= 0.90


def test_sample_pictures_are_classified_as_expected(reference):
    pixels = reference.pixel_values([load_image(str(IMAGES / name)) for name in SAMPLES["expected"]])
    labels = SAMPLES["candidate_labels"]
    best = reference.forward(pixels, list(map(DEFAULT_TEMPLATE.format, labels))).logits.argmax(axis=1)
    found = dict(zip(SAMPLES["expected"], (labels[index] for index in best), strict=True))
    assert found == SAMPLES["expected"]


def test_sample_pictures_are_small_and_varied():
    files = [IMAGES / name for name in SAMPLES["expected"]]
    assert all(file.stat().st_size < 60_000 for file in files)
    modes, sizes, orientations = set(), set(), set()
    for file in files:
        with Image.open(file) as picture:
            modes.add(picture.mode)
            sizes.add(picture.size)
            orientations.add(picture.getexif().get(0x0112, 1))
    assert modes >= {"RGB", "RGBA", "L"} and len(sizes) >= 5 and 6 in orientations
    assert sorted(p.name for p in IMAGES.iterdir() if p.suffix != ".json") == sorted(SAMPLES["expected"])
    assert np.isin(list(SAMPLES["expected"].values()), SAMPLES["candidate_labels"]).all()


def test_sample_digits_come_from_the_test_half():
    rows = DIGIT_ROWS.values()
    assert set(rows) <= set(digit_rows("test").tolist())
    assert [load_glyphs()[1][row] for row in rows] == list(DIGIT_ROWS)
