"""Says what differs between a server and transformers, stage by stage, where their answers do.

Each stage is looked at alone: the weights by their digest; the pixels that the server makes of a file; its
vision tower on pixels made here; the tokens of the prompts by number, or by ids where the repository is at
hand; its text tower on prompts of equal tokens. So what one stage does is not laid to another.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from tritonclip import Client, TritonClipError, TruncatedTextWarning
from tritonclip_server.evaluation.sides import REFUSED, Reference, Side
from tritonclip_server.repository.checkpoint import CheckpointFiles

SAMPLES = 16
"""Images, and labels, that are looked at: those that differ most."""
MAX_PROMPTS = 256
SAME_COSINE = 0.999_999
"""At least so much have two embeddings of the same weights and inputs in float32."""
PACKAGES = ("torch", "transformers", "tokenizers", "pillow")
SETTINGS = {
    "image_preprocess": ("jpeg_draft", "jpeg_decoder"),
    "vision_encoder": ("precision",),
    "text_encoder": ("precision",),
}

Array = np.ndarray


@dataclass(frozen=True)
class Run:
    """Both sides, what they were asked, and what they said.

    Attributes:
        url: Of the server.
        repository: Its model repository, where that is at hand.
        files: The checkpoint that transformers has loaded.
        reference: transformers.
        paths: The images.
        labels: The labels.
        templates: Their templates.
        found: What the server said.
        expected: What transformers said.
    """

    url: str
    repository: Path | None
    files: CheckpointFiles
    reference: Reference
    paths: Sequence[Path]
    labels: Sequence[str]
    templates: Sequence[str]
    found: Side
    expected: Side

    def worst_paths(self) -> list[Path]:
        """The images whose scores differ most, those of other best labels first."""
        taken = (self.found.guesses != REFUSED) & (self.expected.guesses != REFUSED)
        distance = np.abs(self.found.scores - self.expected.scores).max(1)
        distance += self.found.guesses != self.expected.guesses
        order = np.argsort(-np.where(taken, distance, -1), kind="stable")[:SAMPLES]
        return [self.paths[n] for n in order if taken[n]]

    def worst_prompts(self) -> list[str]:
        """The prompts of the labels whose embeddings differ most."""
        cosines = (self.found.text_embeds * self.expected.text_embeds).sum(1)
        chosen = [self.labels[n] for n in np.argsort(cosines, kind="stable")[:SAMPLES]]
        return [template.format(label) for label in chosen for template in self.templates][:MAX_PROMPTS]


def explain(run: Run) -> list[str]:
    """One line for each stage that differs; then the server's settings, and the versions here."""
    paths, prompts = run.worst_paths(), run.worst_prompts()
    lines = [*_weights(run), *_refused(run)]
    for name, stage in (("preprocessing", _pixels), ("vision tower", _vision)):
        lines += _compared(name, lambda stage=stage: stage(run, paths) if paths else [])
    lines += _compared("tokenizer", lambda: _tokens(run, prompts))
    lines += _compared("text tower", lambda: _text(run, prompts))
    return [*(lines or ["no stage differs"]), *_compared("settings", lambda: [_settings(run)]), _versions()]


def _compared(name: str, stage: Any) -> list[str]:
    """What a stage gives, or why it could not be looked at."""
    try:
        lines: list[str] = stage()
    except (InferenceServerException, TritonClipError, OSError, ValueError) as error:
        return [f"{name}: not looked at ({error})"]
    return lines


def _weights(run: Run) -> list[str]:
    with Client(run.url) as client:
        model = next(one for one in client.models() if one.name == "clip_zero_shot")
    lines, scale = [], run.reference.model.logit_scale.exp().item()
    if model.sha256 != run.files.sha256:
        lines.append(
            f"weights: the server has {model.checkpoint} (sha256 {model.sha256[:12]}), transformers "
            f"{run.files.source} (sha256 {run.files.sha256[:12]})"
        )
    if abs(model.logit_scale - scale) > 1e-4 * scale:
        lines.append(f"logit scale: {model.logit_scale:g} on the server, {scale:g} in the checkpoint")
    return lines


def _refused(run: Run) -> list[str]:
    sides = (("the server", run.found, run.expected), ("transformers", run.expected, run.found))
    lines = []
    for name, one, other in sides:
        alone = sorted(one.refused.keys() - other.refused.keys())
        if alone:
            why = f"{run.paths[alone[0]].name}: {one.refused[alone[0]]}"
            lines.append(f"refused by {name} alone: {len(alone)} images, the first is {why}")
    return lines


def _pixels(run: Run, paths: Sequence[Path]) -> list[str]:
    """The server's resized and cropped pixels, 0 to 255, against transformers'."""
    distances = {}
    with _steps(run.url) as steps:
        for path in paths:
            pixels = steps.infer("image_preprocess", [_bytes("image", [path.read_bytes()])])
            expected = run.reference.pixel_values(path, do_rescale=False, do_normalize=False)
            distances[path.name] = np.abs(
                pixels.as_numpy("pixel_values")[0, 0] - expected.astype(float)
            ).max()
        differing = [name for name, distance in distances.items() if distance]
        if not differing:
            return []
        settings = _parameters(steps, "image_preprocess")
    return [
        f"preprocessing: the pixels of {len(differing)} of {len(paths)} images differ, by up to "
        f"{max(distances.values()):.0f} of 255, as of {differing[0]}; the server has {settings}"
    ]


def _vision(run: Run, paths: Sequence[Path]) -> list[str]:
    """The server's vision tower on pixels that are prepared here, by the rules of transformers."""
    with Client(run.url, preprocess="client") as client:
        found = client.embed_images(list(paths))
    expected = run.reference.embed_pixels(np.stack([run.reference.pixel_values(path) for path in paths]))
    return _tower(run, "vision", found, expected, "pixels")


def _text(run: Run, prompts: Sequence[str]) -> list[str]:
    """The server's text tower on the prompts that both cut into as many tokens."""
    other = set(_other_tokens(run, prompts))
    same = [prompt for prompt in prompts if prompt not in other]
    if not same:
        return ["text tower: not looked at, since no prompt has the same tokens"]
    return _tower(run, "text", _embed_texts(run, same), run.reference.embed_texts(same), "tokens")


def _tower(run: Run, name: str, found: Array, expected: Array, inputs: str) -> list[str]:
    if found.shape[1] != expected.shape[1]:
        return [f"{name} tower: {found.shape[1]} dimensions, transformers has {expected.shape[1]}"]
    cosines = (found * expected).sum(1)
    if cosines.min() >= SAME_COSINE:
        return []
    with _steps(run.url) as steps:
        settings = _parameters(steps, f"{name}_encoder")
    return [
        f"{name} tower: on the same {inputs} the cosine with transformers in float32 is {cosines.min():.7f} "
        f"at least, {np.median(cosines):.7f} mostly; the server has {settings}"
    ]


def _tokens(run: Run, prompts: Sequence[str]) -> list[str]:
    other = _other_tokens(run, prompts)
    if not other:
        return []
    what = "token ids" if run.repository else "numbers of tokens"
    return [
        f"tokenizer: the {what} of {len(other)} of {len(prompts)} prompts differ, as of {other[0]!r}; "
        f"here tokenizers {version('tokenizers')}, transformers {version('transformers')}"
    ]


def _other_tokens(run: Run, prompts: Sequence[str]) -> list[str]:
    """The prompts that the server cuts otherwise."""
    expected = run.reference.processor.tokenizer(list(prompts))["input_ids"]
    if run.repository is not None:
        found = _served_tokens(run.repository, prompts)
        return [prompt for prompt, one, two in zip(prompts, found, expected, strict=True) if one != two]
    with _steps(run.url) as steps:
        answer = steps.infer("clip_text_embedding", [_bytes("text", [p.encode() for p in prompts])])
    counts = answer.as_numpy("token_counts")[0]
    return [p for p, one, two in zip(prompts, counts, expected, strict=True) if one != len(two)]


def _served_tokens(repository: Path, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids by the tokenizer of the newest version in a repository."""
    files = {int(path.parent.name): path for path in repository.glob("text_encoder/*/tokenizer.json")}
    tokenizer = Tokenizer.from_file(str(files[max(files)]))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [one.ids for one in tokenizer.encode_batch(list(prompts))]


def _embed_texts(run: Run, prompts: Sequence[str]) -> Array:
    with Client(run.url) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncatedTextWarning)
        return client.embed_texts(list(prompts))


def _settings(run: Run) -> str:
    with _steps(run.url) as steps:
        return "settings: " + "; ".join(f"{model}: {_parameters(steps, model)}" for model in SETTINGS)


def _parameters(steps: Any, model: str) -> str:
    config = steps.get_model_config(model, as_json=True)["config"]
    values = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
    return ", ".join(f"{name} {values.get(name, 'unset')}" for name in SETTINGS[model])


def _versions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"here: {packages}, Python {platform.python_version()}"


@contextmanager
def _steps(url: str) -> Any:
    """A plain client of Triton, for what the package's client does not ask: tokens, pixels, settings."""
    with Client(url) as client:
        kind, _, address = client.endpoints[0].partition("://")
    if kind != "grpc":
        raise ValueError(f"{kind} is in use; plain gRPC is needed for it")
    steps = grpc.InferenceServerClient(address)
    try:
        yield steps
    finally:
        steps.close()


def _bytes(name: str, content: list[bytes]) -> Any:
    tensor = grpc.InferInput(name, [1, len(content)], "BYTES")
    return tensor.set_data_from_numpy(np.array([content], dtype=object))
