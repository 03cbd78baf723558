"""The prepared encoders on a device, and how near they are to transformers in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch

from tritonclip_server.gpu.run import LABELS, Run
from tritonclip_server.repository.version_code import import_from_versions

LOGIT_SCALE = 100.0
LARGEST_SCORE_ERROR = {"float32": 0.001, "float16": 0.01, "bfloat16": 0.05}
"""At that scale, which is the largest that CLIP trains to, with ten labels."""
LEAST_COSINE = {"float32": 0.99999, "float16": 0.9999, "bfloat16": 0.9999}


class Encoders(NamedTuple):
    """The prepared towers on a device, in one precision.

    Attributes:
        forward: A pass without CUDA graph: uint8 [n, 3, side, side] on the device -> float32 [n, dim] there.
        encode_images: As vision_encoder's model.py calls it: uint8 [n, 3, side, side] -> float32 [n, dim].
        encode_texts: As text_encoder's does: texts -> float32 [n, dim].
        side: Height and width of an image.
    """

    forward: Callable[[Any], Any]
    encode_images: Callable[[np.ndarray], np.ndarray]
    encode_texts: Callable[[Sequence[str]], np.ndarray]
    side: int


def load_encoders(run: Run, precision: str) -> Encoders:
    """Builds both encoders as the models' `initialize` does; the only place that knows their classes."""
    folders = [run.repository / model / "1" for model in ("vision_encoder", "text_encoder")]
    encoder, vision_code, text_code = (
        import_from_versions(name, *folders) for name in ("clip_encoder", "clip_vision", "clip_text")
    )
    device, dtype = torch.device(run.device), getattr(torch, precision)
    vision = vision_code.load_vision_model(run.repository / "vision_encoder" / "1")
    vision.set_precision(dtype)
    vision = vision.to(device)
    side = vision.grid * vision.patch
    images: Any = (
        encoder.GraphEncoder(vision, device, run.max_bucket, side)
        if device.type == "cuda"
        else encoder.HostEncoder(vision, device, run.max_bucket)
    )
    directory = run.repository / "text_encoder" / "1"
    settings = json.loads((directory / "text.json").read_text(encoding="utf-8"))
    text = text_code.load_text_model(directory)
    text.set_precision(dtype)
    tokenizer = text_code.TextTokenizer(directory / "tokenizer.json", settings["max_position_embeddings"])
    texts = text_code.TextEncoder(
        text.to(device), tokenizer, device, run.max_bucket, settings["pad_token_id"]
    )
    return Encoders(vision, lambda pixels: images.encode([pixels]), lambda some: texts.encode(some)[0], side)


def captured(forward: Callable[[Any], Any], pixels: Any) -> tuple[Callable[[], None], Any]:
    """The model's own CUDA graph of a pass: what replays it, and the tensor that it fills."""
    replay, embeds = import_module("clip_encoder").cuda_graph(forward, pixels, pool=None)
    return replay, embeds


def buckets(largest: int) -> list[int]:
    """1, 2, 4 ... up to `largest`."""
    return [1 << power for power in range(largest.bit_length()) if 1 << power <= largest]


class Reference:
    """transformers' CLIPModel in float64 on a device."""

    def __init__(self, run: Run, device: str) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self._model = CLIPModel.from_pretrained(
            run.checkpoint, dtype=torch.float64, attn_implementation="sdpa"
        )
        self._model = self._model.eval().to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(run.checkpoint)
        settings = json.loads((run.repository / "vision_encoder" / "1" / "vision.json").read_text())
        self._mean, self._std = (
            np.array(settings[name], np.float64)[:, None, None] for name in ("image_mean", "image_std")
        )
        self._scale, self.side = settings["rescale_factor"], settings["image_size"]

    def embed(self, pixels: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, 3, side, side] and m texts -> float64 [n, dim] and [m, dim], unit L2 norm."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        values = torch.from_numpy((pixels * self._scale - self._mean) / self._std).to(self._model.device)
        with torch.inference_mode():
            found = self._model(pixel_values=values, **tokens.to(self._model.device))
        return found.image_embeds.cpu().numpy(), found.text_embeds.cpu().numpy()


def correctness(run: Run) -> None:
    """Both encoders against the reference, on fresh random inputs in each comparison."""
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    random = np.random.default_rng(seed)
    run.results.put(seed=seed, logit_scale=LOGIT_SCALE, labels=len(LABELS))
    reference = Reference(run, run.device)
    _check_reference(run, reference, random)
    for precision in run.plan.precisions:
        encoders = load_encoders(run, precision)
        for path, count, encode in image_paths(run, encoders):
            if not run.has_time(5):
                return
            pixels = random_pixels(random, count, encoders.side)
            images, texts = reference.embed(pixels, LABELS)
            error, cosine = compare(encode(pixels), texts, images, texts)
            _add_comparison(run, "image", precision, path, count, error, cosine)
        for count in buckets(run.max_bucket):
            if not run.has_time(5):
                return
            labels = random_texts(random, max(count, len(LABELS)))
            images, texts = reference.embed(random_pixels(random, 4, encoders.side), labels)
            found = encoders.encode_texts(labels[:count])
            cosine, ten = least_cosine(found, texts[:count]), texts[: len(LABELS)].copy()
            ten[:count] = found[: len(ten)]
            error, _ = compare(images, ten, images, texts[: len(ten)])
            _add_comparison(run, "text", precision, "encode", count, error, cosine)


def _check_reference(run: Run, reference: Reference, random: np.random.Generator) -> None:
    """Where the reference runs on a GPU: how far it is from the same on the CPU."""
    if run.device == "cpu":
        return
    inputs = random_pixels(random, 4, reference.side), random_texts(random, 4)
    pairs = zip(reference.embed(*inputs), Reference(run, "cpu").embed(*inputs), strict=True)
    run.results.put(reference_differs_from_cpu=max(float(np.abs(ours - cpu).max()) for ours, cpu in pairs))


def image_paths(
    run: Run, encoders: Encoders
) -> Iterator[tuple[str, int, Callable[[np.ndarray], np.ndarray]]]:
    """Every way to encode images, as (name, images, uint8 [n, 3, side, side] -> float32 [n, dim])."""

    @torch.inference_mode()
    def eager(pixels: np.ndarray) -> np.ndarray:
        embeds: np.ndarray = encoders.forward(torch.from_numpy(pixels).to(run.device)).cpu().numpy()
        return embeds

    @torch.inference_mode()
    def graph(pixels: np.ndarray) -> np.ndarray:
        static = torch.zeros(pixels.shape, dtype=torch.uint8, device=run.device)
        replay, embeds = captured(encoders.forward, static)
        embeds.fill_(torch.nan)
        static.copy_(torch.from_numpy(pixels))
        replay()
        filled: np.ndarray = embeds.cpu().numpy()
        return filled

    for count in buckets(run.max_bucket):
        yield "eager", count, eager
        if run.device == "cuda":
            yield "graph", count, graph
        yield "encode", count, encoders.encode_images
    for count in (3, run.max_bucket - 1, run.max_bucket + 5):
        yield "encode", count, encoders.encode_images


def random_pixels(random: np.random.Generator, count: int, side: int) -> np.ndarray:
    """uint8 [count, 3, side, side]: patches of colour under noise, both of a strength that varies."""
    coarse = random.uniform(0, 255, (count, 3, 8, 8)).repeat(-(-side // 8), 2).repeat(-(-side // 8), 3)
    noise = random.normal(size=(count, 3, side, side)) * random.uniform(0, 80, (count, 1, 1, 1))
    return (coarse[:, :, :side, :side] + noise).clip(0, 255).astype(np.uint8)


def random_texts(random: np.random.Generator, count: int) -> list[str]:
    """Texts of one to forty words; some are too long for the tower."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return [
        " ".join(
            "".join(random.choice(letters, random.integers(1, 9))) for _ in range(random.integers(1, 41))
        )
        for _ in range(count)
    ]


def least_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """The smallest cosine between rows of two arrays [n, d]; NaN where a row is not finite."""
    found = found.astype(np.float64)
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((found * expected).sum(axis=-1) / norms).min())


def compare(
    images: np.ndarray, texts: np.ndarray, right_images: np.ndarray, right_texts: np.ndarray
) -> tuple[float, float]:
    """The largest error of a score and the least cosine; NaN where anything is not finite.

    Args:
        images: float [n, d], unit L2 norm.
        texts: float [m, d], unit L2 norm.
        right_images: What `images` should be.
        right_texts: What `texts` should be.
    """
    error = np.abs(scores(images, texts) - scores(right_images, right_texts)).max()
    return float(error), min(least_cosine(images, right_images), least_cosine(texts, right_texts))


def scores(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """float64 [n, m]: softmax over the texts of the cosines times `LOGIT_SCALE`."""
    logits = LOGIT_SCALE * images.astype(np.float64) @ texts.astype(np.float64).T
    weights: np.ndarray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def is_right(precision: str, error: float, cosine: float) -> bool:
    """Whether a comparison passes; NaN never does."""
    return error <= LARGEST_SCORE_ERROR[precision] and cosine >= LEAST_COSINE[precision]


def _add_comparison(
    run: Run, tower: str, precision: str, path: str, count: int, error: float, cosine: float
) -> None:
    run.results.add(
        "comparisons",
        tower=tower,
        precision=precision,
        path=path,
        count=count,
        score_error=error,
        cosine=cosine,
        right=is_right(precision, error, cosine),
    )
