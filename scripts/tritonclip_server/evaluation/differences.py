"""Find the stages in which a server differs from transformers.

Each stage is compared on equal inputs, so that a difference is attributed to the stage that causes it:

- weights: the digest and the logit scale
- preprocessing: the pixels that the server makes of a file
- vision tower: embeddings of pixels that are prepared here
- tokenizer: the token ids if the repository is at hand, otherwise the number of tokens
- text tower: embeddings of prompts with equal tokens
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers.image_utils import load_image
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from tritonclip import Client, TritonClipError, TruncatedTextWarning
from tritonclip_server.evaluation.predictions import REJECTED, Predictions
from tritonclip_server.repository.checkpoint_files import CheckpointFiles
from tritonclip_server.repository.reference import Reference

SAMPLES = 16
"""Number of images and of labels that are compared: those that differ most."""
MAX_PROMPTS = 256
SAME_COSINE = 0.999_999
"""Minimum cosine of two float32 embeddings from the same weights and inputs."""
PACKAGES = ("torch", "transformers", "tokenizers", "pillow")
SETTINGS = {
    "image_preprocess": ("image_processor", "jpeg_draft"),
    "vision_encoder": ("precision",),
    "text_encoder": ("precision",),
}

Array = np.ndarray


@dataclass(frozen=True)
class Comparison:
    """A server, the reference, their common inputs and their predictions.

    Attributes:
        url: Address of the server.
        repository: Model repository of the server, or None if it is not at hand.
        files: Checkpoint that the reference has loaded.
        reference: transformers on that checkpoint.
        paths: Image files.
        labels: Candidate labels.
        templates: Hypothesis templates.
        found: Predictions of the server.
        expected: Predictions of the reference.
    """

    url: str
    repository: Path | None
    files: CheckpointFiles
    reference: Reference
    paths: Sequence[Path]
    labels: Sequence[str]
    templates: Sequence[str]
    found: Predictions
    expected: Predictions

    def worst_paths(self) -> list[Path]:
        """Return the images whose scores differ most, those with different best labels first."""
        accepted = (self.found.best_labels != REJECTED) & (self.expected.best_labels != REJECTED)
        distance = np.abs(self.found.scores - self.expected.scores).max(1)
        distance += self.found.best_labels != self.expected.best_labels
        order = np.argsort(-np.where(accepted, distance, -1), kind="stable")[:SAMPLES]
        return [self.paths[n] for n in order if accepted[n]]

    def worst_prompts(self) -> list[str]:
        """Return the prompts of the labels whose embeddings differ most."""
        cosines = (self.found.text_embeds * self.expected.text_embeds).sum(1)
        chosen = [self.labels[n] for n in np.argsort(cosines, kind="stable")[:SAMPLES]]
        return [template.format(label) for label in chosen for template in self.templates][:MAX_PROMPTS]


def explain(comparison: Comparison) -> list[str]:
    """Return one line per stage that differs, then the server's settings and the local versions."""
    paths, prompts = comparison.worst_paths(), comparison.worst_prompts()
    lines = [*_weights(comparison), *_rejected(comparison)]
    if paths:
        lines += _stage_lines("preprocessing", lambda: _pixels(comparison, paths))
        lines += _stage_lines("vision tower", lambda: _vision(comparison, paths))
    lines += _stage_lines("tokenizer", lambda: _tokens(comparison, prompts))
    lines += _stage_lines("text tower", lambda: _text(comparison, prompts))
    settings = _stage_lines("settings", lambda: [_settings(comparison)])
    return [*(lines or ["no stage differs"]), *settings, _versions()]


def _stage_lines(name: str, compare: Callable[[], list[str]]) -> list[str]:
    """Compare a stage; return the reason if it cannot be compared."""
    try:
        return compare()
    except (InferenceServerException, TritonClipError, OSError, ValueError) as error:
        return [f"{name}: not compared ({error})"]


def _weights(comparison: Comparison) -> list[str]:
    with Client(comparison.url) as client:
        model = next(one for one in client.models() if one.name == "clip_zero_shot")
    lines, scale = [], comparison.reference.logit_scale
    if model.sha256 != comparison.files.sha256:
        lines.append(
            f"weights: the server has {model.checkpoint} (sha256 {model.sha256[:12]}), transformers "
            f"{comparison.files.source} (sha256 {comparison.files.sha256[:12]})"
        )
    if abs(model.logit_scale - scale) > 1e-4 * scale:
        lines.append(f"logit scale: {model.logit_scale:g} on the server, {scale:g} in the checkpoint")
    return lines


def _rejected(comparison: Comparison) -> list[str]:
    sides = (
        ("the server", comparison.found, comparison.expected),
        ("transformers", comparison.expected, comparison.found),
    )
    lines = []
    for name, one, other in sides:
        only_here = sorted(one.rejected.keys() - other.rejected.keys())
        if only_here:
            first = f"{comparison.paths[only_here[0]].name}: {one.rejected[only_here[0]]}"
            lines.append(f"rejected by {name} only: {len(only_here)} images, the first is {first}")
    return lines


def _pixels(comparison: Comparison, paths: Sequence[Path]) -> list[str]:
    """Compare the resized and cropped pixels, 0 to 255."""
    distances = {}
    with _triton_client(comparison.url) as triton:
        for path in paths:
            pixels = triton.infer("image_preprocess", [_bytes("image", [path.read_bytes()])])
            image = load_image(str(path))
            expected = comparison.reference.pixel_values([image], do_rescale=False, do_normalize=False)[
                0
            ].numpy()
            distances[path.name] = np.abs(
                pixels.as_numpy("pixel_values")[0, 0] - expected.astype(float)
            ).max()
        differing = [name for name, distance in distances.items() if distance]
        if not differing:
            return []
        settings = _parameters(triton, "image_preprocess")
    return [
        f"preprocessing: the pixels of {len(differing)} of {len(paths)} images differ, by up to "
        f"{max(distances.values()):.0f} of 255, for example {differing[0]}; the server has {settings}"
    ]


def _vision(comparison: Comparison, paths: Sequence[Path]) -> list[str]:
    """Compare the vision towers on pixels that the client prepares by the rules of transformers."""
    with Client(comparison.url, preprocess="client") as client:
        found = client.embed_images(list(paths))
    pixels = comparison.reference.pixel_values([load_image(str(path)) for path in paths])
    expected = comparison.reference.embed_pixels(pixels)
    return _tower(comparison, "vision", found, expected, "pixels")


def _text(comparison: Comparison, prompts: Sequence[str]) -> list[str]:
    """Compare the text towers on the prompts that have the same tokens on both sides."""
    other = set(_other_tokens(comparison, prompts))
    same = [prompt for prompt in prompts if prompt not in other]
    if not same:
        return ["text tower: not compared, because no prompt has the same tokens on both sides"]
    return _tower(
        comparison, "text", _embed_texts(comparison, same), comparison.reference.embed_texts(same), "tokens"
    )


def _tower(comparison: Comparison, name: str, found: Array, expected: Array, inputs: str) -> list[str]:
    if found.shape[1] != expected.shape[1]:
        return [
            f"{name} tower: {found.shape[1]} dimensions on the server, {expected.shape[1]} in transformers"
        ]
    cosines = (found * expected).sum(1)
    if cosines.min() >= SAME_COSINE:
        return []
    with _triton_client(comparison.url) as triton:
        settings = _parameters(triton, f"{name}_encoder")
    return [
        f"{name} tower: on the same {inputs} the least cosine with transformers in float32 is "
        f"{cosines.min():.7f}, the median {np.median(cosines):.7f}; the server has {settings}"
    ]


def _tokens(comparison: Comparison, prompts: Sequence[str]) -> list[str]:
    other = _other_tokens(comparison, prompts)
    if not other:
        return []
    what = "token ids" if comparison.repository else "numbers of tokens"
    return [
        f"tokenizer: the {what} of {len(other)} of {len(prompts)} prompts differ, for example {other[0]!r}; "
        f"local versions: tokenizers {version('tokenizers')}, transformers {version('transformers')}"
    ]


def _other_tokens(comparison: Comparison, prompts: Sequence[str]) -> list[str]:
    """Return the prompts that the server tokenises differently."""
    expected = comparison.reference.tokenizer(list(prompts))["input_ids"]
    if comparison.repository is not None:
        found = _served_tokens(comparison.repository, prompts)
        return [prompt for prompt, one, two in zip(prompts, found, expected, strict=True) if one != two]
    with _triton_client(comparison.url) as triton:
        answer = triton.infer("clip_text_embedding", [_bytes("text", [p.encode() for p in prompts])])
    counts = answer.as_numpy("token_counts")[0]
    return [p for p, one, two in zip(prompts, counts, expected, strict=True) if one != len(two)]


def _served_tokens(repository: Path, prompts: Sequence[str]) -> list[list[int]]:
    """Return token ids of the tokenizer of the newest version in a repository."""
    files = {int(path.parent.name): path for path in repository.glob("text_encoder/*/tokenizer.json")}
    tokenizer = Tokenizer.from_file(str(files[max(files)]))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [one.ids for one in tokenizer.encode_batch(list(prompts))]


def _embed_texts(comparison: Comparison, prompts: Sequence[str]) -> Array:
    with Client(comparison.url) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncatedTextWarning)
        return client.embed_texts(list(prompts))


def image_processor(url: str) -> str:
    """Return the parameter `image_processor` of a server."""
    with _triton_client(url) as triton:
        parameters = triton.get_model_config("image_preprocess", as_json=True)["config"]["parameters"]
    return str(parameters["image_processor"]["string_value"])


def _settings(comparison: Comparison) -> str:
    with _triton_client(comparison.url) as triton:
        return "settings: " + "; ".join(f"{model}: {_parameters(triton, model)}" for model in SETTINGS)


def _parameters(triton: Any, model: str) -> str:
    config = triton.get_model_config(model, as_json=True)["config"]
    values = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
    return ", ".join(f"{name} {values.get(name, 'unset')}" for name in SETTINGS[model])


def _versions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"local versions: {packages}, Python {platform.python_version()}"


@contextmanager
def _triton_client(url: str) -> Iterator[Any]:
    """Open a tritonclient connection, for the token counts, pixels and settings of single models."""
    with Client(url) as client:
        kind, _, address = client.endpoints[0].partition("://")
    if kind != "grpc":
        raise ValueError(f"the connection uses {kind}; this comparison needs plain gRPC")
    triton = grpc.InferenceServerClient(address)
    try:
        yield triton
    finally:
        triton.close()


def _bytes(name: str, content: list[bytes]) -> Any:
    tensor = grpc.InferInput(name, [1, len(content)], "BYTES")
    return tensor.set_data_from_numpy(np.array([content], dtype=object))
