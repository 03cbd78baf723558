"""Labels in several templates: their mean, and problems that name the label."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from tritonclip import InvalidInputError, TruncatedTextWarning
from tritonclip._calls.label_prompts import LabelPrompts, Part
from tritonclip._calls.token_counts import TokenCounts, collecting


def part(*tokens: int) -> Part:
    """Return the embeddings and token counts of an answer; the embeddings are float32 [n, 2]."""
    embeds = np.array([[1, 0], [0, 1]] * len(tokens), np.float32)[: len(tokens)]
    return embeds, TokenCounts(list(tokens), 77)


def test_label_is_the_mean_of_its_sentences_scaled_to_norm_1() -> None:
    prompts = LabelPrompts(["a", "b"], ["{}", "a {}"])
    found = prompts.label_embeds([part(3, 4), part(3, 4)])
    np.testing.assert_allclose(found, np.full((2, 2), 0.5**0.5), atol=1e-7)
    assert found.dtype == np.float32


def test_truncated_sentences_are_named_as_their_label_once() -> None:
    prompts = LabelPrompts(["a", "long"], ["{}", "a photo of {}"])
    with pytest.warns(TruncatedTextWarning) as caught:
        prompts.label_embeds([part(3, 4, 90), part(93)])
    expected = "label 1 has 93 tokens in the template 'a photo of {}' and was cut at 77: 'long'"
    assert [str(one.message) for one in caught] == [expected]
    with collecting() as collected:
        prompts.label_embeds([part(3, 4, 90, 93)])
    assert (collected.truncations, collected.texts, collected.tokens) == ([expected], 2, 190)


def test_single_template_is_not_named() -> None:
    with pytest.warns(TruncatedTextWarning, match=r"^label 0 has 90 tokens and was cut at 77: 'long'$"):
        LabelPrompts(["long"], ["{}"]).label_embeds([part(90)])


def test_error_about_a_sentence_names_the_label() -> None:
    labels = [f"label {number}" for number in range(600)]
    _, second = LabelPrompts(labels, ["{}", "a {}"]).requests()
    flow: Generator[Any, Any, Any] = second
    call = next(flow)
    assert call.inputs["text"][0, 1] == b"a label 500"
    with pytest.raises(InvalidInputError, match=r"^label 500 is too long"):
        flow.throw(InvalidInputError("label 1 is too long: 90 bytes, the limit is 80"))
