"""Accuracy of the prepared encoders on a device, compared with transformers in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch

from tritonclip_server.gpu.context import LABELS, PartContext
from tritonclip_server.repository.reference import Reference
from tritonclip_server.repository.version_code import import_from_versions

LOGIT_SCALE = 100.0
LARGEST_SCORE_ERROR = {"float32": 0.001, "float16": 0.01, "bfloat16": 0.05}
"""Limits with ten labels at the largest logit scale that CLIP trains to, which is `LOGIT_SCALE`."""
LEAST_COSINE = {"float32": 0.99999, "float16": 0.9999, "bfloat16": 0.9999}


class Encoders(NamedTuple):
    """The prepared towers on a device, in one precision.

    Attributes:
        forward: Pass without CUDA graph: uint8 [n, 3, side, side] -> float32 [n, dim], both on the device.
        encode_images: The encoder of vision_encoder: uint8 [n, 3, side, side] -> float32 [n, dim].
        encode_texts: The encoder of text_encoder: texts -> float32 [n, dim].
        side: Height and width of an image.
    """

    forward: Callable[[Any], Any]
    encode_images: Callable[[np.ndarray], np.ndarray]
    encode_texts: Callable[[Sequence[str]], np.ndarray]
    side: int


def load_encoders(context: PartContext, precision: str) -> Encoders:
    """Create both encoders as the models' `initialize` does."""
    folders = [context.repository / model / "1" for model in ("vision_encoder", "text_encoder")]
    encoder, vision_code, text_code = (
        import_from_versions(name, *folders) for name in ("clip_encoder", "clip_vision", "clip_text")
    )
    device, dtype = torch.device(context.device), getattr(torch, precision)
    vision = vision_code.load_vision_model(context.repository / "vision_encoder" / "1")
    vision.set_precision(dtype)
    vision = vision.to(device)
    side = vision.grid * vision.patch
    images: Any = (
        encoder.GraphEncoder(vision, device, context.max_bucket, side)
        if device.type == "cuda"
        else encoder.DirectEncoder(vision, device, context.max_bucket)
    )
    directory = context.repository / "text_encoder" / "1"
    settings = json.loads((directory / "text.json").read_text(encoding="utf-8"))
    text = text_code.load_text_model(directory)
    text.set_precision(dtype)
    tokenizer = text_code.TextTokenizer(directory / "tokenizer.json", settings["max_position_embeddings"])
    limits = context.max_bucket, text_code.MAX_TOKENS[device.type], settings["pad_token_id"]
    texts = text_code.TextEncoder(text.to(device), tokenizer, device, *limits)
    return Encoders(vision, lambda pixels: images.encode([pixels]), lambda some: texts.encode(some)[0], side)


def capture_graph(forward: Callable[[Any], Any], pixels: Any) -> tuple[Callable[[], None], Any]:
    """Capture a pass as the model's CUDA graph; return the function that replays it and its output tensor."""
    replay, embeds = import_module("clip_encoder").cuda_graph(forward, pixels, pool=None)
    return replay, embeds


def buckets(largest: int) -> list[int]:
    """Return the powers of two up to `largest`."""
    return [1 << power for power in range(largest.bit_length()) if 1 << power <= largest]


class DeviceReference:
    """The reference in float64 on a device, for the uint8 pixels that the encoders take."""

    def __init__(self, context: PartContext, device: str) -> None:
        self._reference = Reference(
            context.checkpoint, dtype=torch.float64, device=device, attn_implementation="sdpa"
        )
        settings = json.loads((context.repository / "vision_encoder" / "1" / "vision.json").read_text())
        self._mean, self._std = (
            np.array(settings[name], np.float64)[:, None, None] for name in ("image_mean", "image_std")
        )
        self._rescale, self.side = settings["rescale_factor"], settings["image_size"]

    def embed(self, pixels: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embed uint8 [n, 3, side, side] and m texts -> float64 [n, dim] and [m, dim], unit L2 norm."""
        values = torch.from_numpy((pixels * self._rescale - self._mean) / self._std)
        output = self._reference.forward(values, texts)
        return output.image_embeds, output.text_embeds


def correctness(context: PartContext) -> None:
    """Compare both encoders with the reference, on new random inputs in each comparison."""
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    random = np.random.default_rng(seed)
    context.results.put(seed=seed, logit_scale=LOGIT_SCALE, labels=len(LABELS))
    reference = DeviceReference(context, context.device)
    _check_reference(context, reference, random)
    for precision in context.plan.precisions:
        encoders = load_encoders(context, precision)
        for path, count, encode in image_paths(context, encoders):
            if not context.has_time(5):
                return
            pixels = random_pixels(random, count, encoders.side)
            images, texts = reference.embed(pixels, LABELS)
            error, cosine = compare(encode(pixels), texts, images, texts)
            _add_comparison(context, "image", precision, path, count, error, cosine)
        for count in buckets(context.max_bucket):
            if not context.has_time(5):
                return
            labels = random_texts(random, max(count, len(LABELS)))
            images, texts = reference.embed(random_pixels(random, 4, encoders.side), labels)
            found = encoders.encode_texts(labels[:count])
            cosine, ten = least_cosine(found, texts[:count]), texts[: len(LABELS)].copy()
            ten[:count] = found[: len(ten)]
            error, _ = compare(images, ten, images, texts[: len(ten)])
            _add_comparison(context, "text", precision, "encode", count, error, cosine)


def _check_reference(context: PartContext, reference: DeviceReference, random: np.random.Generator) -> None:
    """Record the deviation of the reference on a GPU from the reference on the CPU."""
    if context.device == "cpu":
        return
    inputs = random_pixels(random, 4, reference.side), random_texts(random, 4)
    pairs = zip(reference.embed(*inputs), DeviceReference(context, "cpu").embed(*inputs), strict=True)
    context.results.put(
        reference_differs_from_cpu=max(float(np.abs(ours - cpu).max()) for ours, cpu in pairs)
    )


def image_paths(
    context: PartContext, encoders: Encoders
) -> Iterator[tuple[str, int, Callable[[np.ndarray], np.ndarray]]]:
    """Yield every way to encode images: its name, number of images, and function of pixels to embeddings."""

    @torch.inference_mode()
    def eager(pixels: np.ndarray) -> np.ndarray:
        embeds: np.ndarray = encoders.forward(torch.from_numpy(pixels).to(context.device)).cpu().numpy()
        return embeds

    @torch.inference_mode()
    def graph(pixels: np.ndarray) -> np.ndarray:
        static = torch.zeros(pixels.shape, dtype=torch.uint8, device=context.device)
        replay, embeds = capture_graph(encoders.forward, static)
        embeds.fill_(torch.nan)
        static.copy_(torch.from_numpy(pixels))
        replay()
        filled: np.ndarray = embeds.cpu().numpy()
        return filled

    for count in buckets(context.max_bucket):
        yield "eager", count, eager
        if context.device == "cuda":
            yield "graph", count, graph
        yield "encode", count, encoders.encode_images
    for count in (3, context.max_bucket - 1, context.max_bucket + 5):
        yield "encode", count, encoders.encode_images


def random_pixels(random: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Return uint8 [count, 3, side, side]: patches of colour under noise, both of random strength."""
    coarse = random.uniform(0, 255, (count, 3, 8, 8)).repeat(-(-side // 8), 2).repeat(-(-side // 8), 3)
    noise = random.normal(size=(count, 3, side, side)) * random.uniform(0, 80, (count, 1, 1, 1))
    return (coarse[:, :, :side, :side] + noise).clip(0, 255).astype(np.uint8)


def random_texts(random: np.random.Generator, count: int) -> list[str]:
    """Return texts of one to forty words. Some exceed the limit of the tower."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return [
        " ".join(
            "".join(random.choice(letters, random.integers(1, 9))) for _ in range(random.integers(1, 41))
        )
        for _ in range(count)
    ]


def least_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the least cosine between rows of two arrays [n, d], NaN if a row is not finite."""
    found = found.astype(np.float64)
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((found * expected).sum(axis=-1) / norms).min())


def compare(
    images: np.ndarray, texts: np.ndarray, right_images: np.ndarray, right_texts: np.ndarray
) -> tuple[float, float]:
    """Return the largest error of a score and the least cosine, NaN if any value is not finite.

    Args:
        images: float [n, d], unit L2 norm.
        texts: float [m, d], unit L2 norm.
        right_images: Correct image embeddings.
        right_texts: Correct text embeddings.
    """
    error = np.abs(scores(images, texts) - scores(right_images, right_texts)).max()
    return float(error), min(least_cosine(images, right_images), least_cosine(texts, right_texts))


def scores(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return float64 [n, m]: softmax over the texts of the cosines times `LOGIT_SCALE`."""
    logits = LOGIT_SCALE * images.astype(np.float64) @ texts.astype(np.float64).T
    weights: np.ndarray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def is_right(precision: str, error: float, cosine: float) -> bool:
    """Return True if a comparison is within the limits; NaN never is."""
    return error <= LARGEST_SCORE_ERROR[precision] and cosine >= LEAST_COSINE[precision]


def _add_comparison(
    context: PartContext, tower: str, precision: str, path: str, count: int, error: float, cosine: float
) -> None:
    context.results.add(
        "comparisons",
        tower=tower,
        precision=precision,
        path=path,
        count=count,
        score_error=error,
        cosine=cosine,
        right=is_right(precision, error, cosine),
    )
