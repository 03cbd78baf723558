"""Drawn pictures and their captions: reproducible, true, and without the held-out pairs."""

import re

import numpy as np
import pytest

from tritonclip_server.demo import scenes as demo_scenes
from tritonclip_server.demo.captions import describes, write_caption
from tritonclip_server.demo.drawing import draw, draw_plain_digit
from tritonclip_server.demo.scenes import (
    COLOURS,
    HELD_OUT,
    PAIRS,
    SHAPES,
    Scene,
    digit_rows,
    load_glyphs,
    sample_training_scene,
)

SAMPLES = 3000


@pytest.fixture(scope="module")
def training_scenes():
    rng = np.random.default_rng(11)
    return [sample_training_scene(rng, plain=bool(i % 2)) for i in range(SAMPLES)]


@pytest.fixture(scope="module")
def training_captions(training_scenes):
    rng = np.random.default_rng(12)
    return [write_caption(scene, rng) for scene in training_scenes]


def picture_bytes(seed):
    rng = np.random.default_rng(seed)
    return [draw(sample_training_scene(rng), rng).tobytes() for _ in range(20)]


def test_same_seed_draws_equal_pictures():
    assert picture_bytes(1) == picture_bytes(1)
    assert picture_bytes(1) != picture_bytes(2)


def test_every_colour_and_shape_has_two_held_out_pairs():
    assert len(HELD_OUT) == 20
    for i, words in enumerate((COLOURS, SHAPES)):
        for word in words:
            assert sum(pair[i] == word for pair in HELD_OUT) == 2


def test_no_training_picture_is_held_out(training_scenes):
    shown = {(s.colour, s.name) for s in training_scenes if s.kind == "shape"}
    assert not shown & HELD_OUT
    assert len(shown) == len(PAIRS) - len(HELD_OUT)  # all other pairs occur


def test_no_training_caption_names_a_held_out_pair(training_captions):
    """Every combination of a colour and a shape in a sentence counts, except the colour of the background."""
    named = set()
    for caption in training_captions:
        words = set(re.findall("[a-z]+", re.sub(r"on a \w+ background", "", caption.text.lower())))
        shapes = {s for s in SHAPES if words & {s, s + "s", s + "es"}}
        named |= {(colour, shape) for colour in words & set(COLOURS) for shape in shapes}
    assert not named & HELD_OUT
    assert len(named) > 70  # proves that the search finds pairs


def test_digit_halves_are_disjoint(training_scenes):
    train, test = set(digit_rows("train")), set(digit_rows("test"))
    assert not train & test
    assert len(train | test) == len(load_glyphs()[1])
    assert {s.glyph for s in training_scenes if s.kind == "digit"} <= train


def test_captions_are_true_of_their_own_picture(training_scenes, training_captions):
    assert describes(training_captions[:300], training_scenes[:300]).diagonal().all()


def test_caption_of_a_red_circle_is_false_of_a_blue_one_if_it_names_the_colour():
    rng = np.random.default_rng(5)
    red = Scene("shape", "circle", "red", "large", "white", ((0.5, 0.5, 0.6),))
    blue = Scene("shape", "circle", "blue", "large", "white", ((0.5, 0.5, 0.6),))
    captions = [write_caption(red, rng) for _ in range(100)]
    for caption, true_of_blue in zip(captions, describes(captions, [red, blue])[1], strict=True):
        assert true_of_blue == ("red" not in caption.text), caption.text


def test_objects_do_not_overlap_and_stay_inside(training_scenes):
    for scene in training_scenes:
        for i, (x, y, diameter) in enumerate(scene.places):
            assert diameter / 2 - 1e-9 <= min(x, y) and max(x, y) <= 1 - diameter / 2 + 1e-9
            assert all(np.hypot(x - u, y - v) > diameter for u, v, _ in scene.places[:i])


def test_object_is_drawn_in_its_colour():
    rng = np.random.default_rng(6)
    for colour in COLOURS:
        scene = Scene("shape", "square", colour, "large", "", ((0.5, 0.5, 0.7),))
        pixel = draw(scene, rng, degrade=False).getpixel((112, 112))
        shades = COLOURS[colour]
        low, high = np.min(shades, axis=0) - 25, np.max(shades, axis=0) + 25
        assert (low <= pixel).all() and (pixel <= high).all(), colour


def test_plain_digit_matches_scikit_learns_pixels():
    picture = np.asarray(draw_plain_digit(0).convert("L").resize((8, 8), 4))  # 4: box
    assert np.abs(picture.astype(int) - load_glyphs()[0][0]).mean() < 25


@pytest.mark.parametrize("colour", list(COLOURS))
def test_every_colour_has_named_backgrounds(colour):
    assert len(demo_scenes.backgrounds_for(colour)) >= 3
    assert colour not in demo_scenes.backgrounds_for(colour)
