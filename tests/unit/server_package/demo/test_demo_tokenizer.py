"""The demo's tokenizer: CLIP's format, and any UTF-8 text."""

import json

import pytest
import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from tritonclip_server.demo.model import build_model
from tritonclip_server.demo.tokenizer import BOS, EOS, MAX_TOKENS, save_tokenizer, train_tokenizer

TEXTS = ["a photo of a red circle.", "two small blue stars", "the handwritten digit 7"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS)


def test_training_is_reproducible(tokenizer):
    assert train_tokenizer(TEXTS).get_vocab() == tokenizer.get_vocab()


def test_vocabulary_is_in_clips_order(tokenizer):
    by_id = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert all(len(symbol) == 1 for symbol in by_id[:256])
    assert by_id[256:512] == [symbol + "</w>" for symbol in by_id[:256]]
    assert by_id[-2:] == [BOS, EOS]


def test_training_words_are_single_tokens(tokenizer):
    ids = tokenizer("two small blue stars").input_ids
    assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == ["two</w>", "small</w>", "blue</w>", "stars</w>"]


@pytest.mark.parametrize(
    "text", ["ein großer roter kreis", "円と 四角 🟥", "наклейка, 100%!", "a\u0301 \u00ff ~", "ﷺ"]
)
def test_any_utf8_text_survives_a_round_trip(tokenizer, text):
    """CLIP's decoder puts spaces between words and signs, so the comparison ignores spaces."""
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert EOS not in tokenizer.convert_ids_to_tokens(ids[1:-1])  # the end token is also the unknown token
    normalised = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(decoded.split()) == "".join(normalised.split())


def test_long_text_is_truncated_to_77_tokens(tokenizer):
    ids = tokenizer("red " * 200, truncation=True).input_ids
    assert len(ids) == MAX_TOKENS and ids[-1] == tokenizer.eos_token_id


def test_saved_files_hold_the_same_vocabulary(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert vocab == tokenizer.get_vocab()
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert len(merges) == len(vocab) - 512 - 2
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again("a Red  circle, 7 円").input_ids == tokenizer("a Red  circle, 7 円").input_ids


def test_padding_after_the_end_token_does_not_change_the_embedding(tokenizer):
    model = build_model(tokenizer)
    text_model = CLIPTextModelWithProjection(model.config.text_config).eval()
    alone = tokenizer(["red circle"], return_tensors="pt")
    padded = tokenizer(["red circle"], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    del padded["attention_mask"]
    with torch.inference_mode():
        difference = text_model(**alone).text_embeds - text_model(**padded).text_embeds
        hidden = text_model.text_model(**alone)
    assert difference.abs().max() < 1e-4
    torch.testing.assert_close(hidden.pooler_output[0], hidden.last_hidden_state[0, -1])
