"""The demo's tokenizer: byte-level BPE in CLIP's format, and its training.

Ids are ordered as in OpenAI's vocabulary:

1. 256 byte symbols
2. the same symbols at the end of a word (`</w>`)
3. one id per merge
4. `<|startoftext|>` and `<|endoftext|>`

Any UTF-8 text can therefore be encoded, and the end token has the highest id.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
Pair = tuple[str, str]


def build_tokenizer(merges: list[Pair]) -> CLIPTokenizer:
    """Create a tokenizer with the 256 bytes and the given merges."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*symbols, *(s + "</w>" for s in symbols), *("".join(pair) for pair in merges), BOS, EOS]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def train_tokenizer(texts: Iterable[str], max_merges: int = 512) -> CLIPTokenizer:
    """Learn merges until every word of the texts is one token, or `max_merges` is reached.

    Source: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016, section 3.2.
    """
    splitter = build_tokenizer([]).backend_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
        counts.update(piece for piece, _ in pieces)
    words = {word: (*word[:-1], word[-1] + "</w>") for word in counts}
    merges: list[Pair] = []
    while len(merges) < max_merges:
        pairs: Counter[Pair] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = max(
            pairs, key=lambda pair: (pairs[pair], pair)
        )  # ties are broken by spelling, so the result is reproducible
        merges.append(best)
        words = {word: _merge(parts, best) for word, parts in words.items()}
    return build_tokenizer(merges)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, and the three older files that other libraries read."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    _write_json(folder / "vocab.json", model["vocab"])
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    _write_json(folder / "special_tokens_map.json", special)


def _merge(parts: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
