import numpy as np
import pytest
import torch

from clip_common.groups import RequestError
from clip_common.times import RejectedError
from clip_scores import Embeds, check_embeds, score, score_in_bounds, softmax

SHAPES = [(1, 1, 3), (1, 4, 2), (1, 1, 3), (2, 1, 3), (1, 4, 2), (3, 2, 7)]


def unit(generator, *shape):
    values = generator.normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.fixture
def groups():
    generator = np.random.default_rng(0)
    return [Embeds(unit(generator, rows, n, 16), unit(generator, rows, m, 16)) for rows, n, m in SHAPES]


def test_scores_of_ragged_groups_equal_torch(groups):
    for group, shape, result in zip(groups, SHAPES, score(groups, 100.0), strict=True):
        logits = 100 * torch.from_numpy(group.image) @ torch.from_numpy(group.text).transpose(1, 2)
        assert result["scores"].shape == shape
        np.testing.assert_allclose(result["logits"], logits, atol=1e-4)
        np.testing.assert_allclose(result["scores"], logits.softmax(dim=-1), atol=1e-6)
        assert result["scores"].dtype == result["logits"].dtype == np.float32


def test_group_scored_alone_gets_the_same_scores(groups):
    for group, together in zip(groups, score(groups, 100.0), strict=True):
        np.testing.assert_allclose(score([group], 100.0)[0]["scores"], together["scores"], atol=1e-7)


def test_large_logits_do_not_overflow():
    assert softmax(np.array([[1e30, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        ((1, 0, 4), (1, 2, 4), "nothing to rank"),
        ((1, 2, 4), (1, 2, 8), "4 dimensions and text_embeds 8"),
        ((2, 4), (2, 4), r"send \[rows, number, dim\]"),
        (
            (2, 3, 1),
            (2, 17, 1),
            r"102 scores for image_embeds \[2, 3, 1\] .* the limit is 100 \(max_scores\)",
        ),
    ],
)
def test_embeddings_of_unsuitable_shapes_are_rejected(image, text, message):
    with pytest.raises(RequestError, match=message):
        check_embeds(Embeds(np.zeros(image, np.float32), np.zeros(text, np.float32)), 100)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1e21])
@pytest.mark.parametrize("side", [0, 1])
def test_embeddings_that_are_not_finite_fail_only_their_request(groups, value, side):
    bad = Embeds(groups[1].image.copy(), groups[1].text.copy())
    bad[side][0, 0, 3] = value
    error, *good = score([bad, *groups], 100.0)
    assert isinstance(error, RequestError)
    assert "NaN, infinity or numbers too large" in str(error)
    for alone, together in zip(score(groups, 100.0), good, strict=True):
        np.testing.assert_allclose(together["scores"], alone["scores"], atol=1e-7)


def test_requests_beyond_the_scores_of_a_batch_are_rejected_and_the_others_scored():
    generator = np.random.default_rng(0)
    large = [Embeds(unit(generator, 1, 5, 4), unit(generator, 1, 4, 4)) for _ in range(5)]  # 20 scores each
    small = Embeds(large[0].image[:, :1], large[0].text)
    *scored, rejected, last = score_in_bounds([*large, small], 100.0, max_scores=21)
    assert isinstance(rejected, RejectedError)
    for one, outcome in zip([*large[:4], small], [*scored, last], strict=True):
        np.testing.assert_array_equal(outcome["scores"], score([one], 100.0)[0]["scores"])
